//! The built-in model: a GGUF inside the executable, so that `falaj up` answers with no network. Its digest is committed
//! beside it and compared before a weight is used.

use crate::failure::{Failure, Outcome};
use crate::words::Word;
use falaj_artifact::{Digest, ModelFiles, Verified};

pub const NAME: &str = "falaj-seed";

pub static GGUF: &[u8] = include_bytes!("../../../models/falaj-seed/falaj-seed-q8_0.gguf");

/// `sha256sum` of that file.
const SHA256: &str = include_str!("../../../models/falaj-seed/falaj-seed-q8_0.gguf.sha256");

pub fn digest() -> Outcome<Digest> {
    Ok(SHA256.split_whitespace().next().unwrap_or_default().parse::<Digest>()?)
}

pub fn files() -> Outcome<Verified<ModelFiles>> {
    let expected = digest()?;
    Verified::embedded(GGUF, expected).map_err(|_| {
        let found = Digest::of(GGUF).to_string();
        Failure::new(Word::BuiltinDamaged.with(&[&found, &expected.to_string()])).next(Word::BuiltinDamagedNext.text())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_digest_is_that_of_the_committed_model() {
        super::files().unwrap();
    }
}
