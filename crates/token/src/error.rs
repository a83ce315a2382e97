//! Everything that can go wrong with a token, each with what helps.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("`{}` is no PKCS#11 module that can be used: {reason}; install the token's software, or correct `site.pkcs11.module`", path.display())]
    Module { path: PathBuf, reason: String },
    #[error("no slot holds a token `{token}`{}; plug it in, or correct `site.pkcs11.token`", others(found))]
    NoToken { token: String, found: Vec<String> },
    #[error("{count} tokens are called `{token}`; leave one, or give them different labels")]
    ManyTokens { token: String, count: usize },
    #[error("the PIN cannot be read from `{}`: {source}; correct `site.pkcs11.pin_file`", path.display())]
    PinFile { path: PathBuf, source: std::io::Error },
    #[error("`{}` can be read by others (mode {mode:o}); run chmod 600 on it", path.display())]
    OpenPinFile { path: PathBuf, mode: u32 },
    #[error(
        "the token `{token}` refuses the PIN in `{}`; correct the file and start again. It is not tried a second time: a few wrong ones lock a token",
        path.display()
    )]
    WrongPin { token: String, path: PathBuf },
    #[error(
        "the token `{token}` allows one more wrong PIN before it locks, so none is tried; log in once by its own tools, correct `{}`, and start again",
        path.display()
    )]
    LastTry { token: String, path: PathBuf },
    #[error("the token `{token}` is locked after too many wrong PINs; unlock it with its security officer's PIN")]
    Locked { token: String },
    #[error(
        "the token `{token}` has no user PIN yet; set one by its own tools, and write it into `site.pkcs11.pin_file`"
    )]
    NoPin { token: String },
    #[error(
        "the token `{token}` holds no key `{key}`; make one with `falaj ledger make-key`, or correct `site.pkcs11.key`"
    )]
    NoKey { token: String, key: String },
    #[error("the token `{token}` holds {count} keys `{key}`; leave one, or give them different labels")]
    ManyKeys { token: String, key: String, count: usize },
    #[error(
        "the key `{key}` of the token `{token}` is no Ed25519 key that signs: {reason}; name another in `site.pkcs11.key`"
    )]
    WrongKind { token: String, key: String, reason: &'static str },
    #[error("the token `{token}` holds a key `{key}` already; it is left as it is")]
    KeyExists { token: String, key: String },
    #[error("the token that is called `{token}` now holds another key than at the start; put the right one back")]
    OtherKey { token: String },
    #[error("the token `{token}` failed: {reason}; look at it with its own tools")]
    Failed { token: String, reason: String },
}

fn others(found: &[String]) -> String {
    match found {
        [] => ", and no other".to_owned(),
        _ => format!(", but `{}`", found.join("`, `")),
    }
}
