//! The key that signs the site's ledger: in a file, which is made at the first start, or in a token, where nothing is made unasked: a
//! mistyped label would make a second key.

use crate::config::SiteKey;
use crate::failure::{OrFail, Outcome};
use falaj_ledger::{FileKey, Signer};
use falaj_token::TokenKey;
use std::sync::Arc;

/// What signs.
pub fn open(key: &SiteKey) -> Outcome<Arc<dyn Signer>> {
    Ok(match key {
        SiteKey::File(path) if path.exists() => Arc::new(FileKey::read(path)?),
        SiteKey::File(path) => Arc::new(FileKey::create(path)?),
        SiteKey::Token(settings) => Arc::new(TokenKey::open(settings.clone())?),
    })
}

/// Needs no PIN.
pub fn public_key(key: &SiteKey) -> Outcome<[u8; 32]> {
    Ok(match key {
        SiteKey::File(path) => FileKey::read(path)?.public_key(),
        SiteKey::Token(settings) => TokenKey::read_public_key(settings)?,
    })
}

/// Makes it where there is none, and gives the public one.
pub fn make(key: &SiteKey) -> Outcome<[u8; 32]> {
    Ok(match key {
        SiteKey::File(path) => FileKey::create(path).or_fail(|| format!("`{}`", path.display()))?.public_key(),
        SiteKey::Token(settings) => TokenKey::create(settings.clone())?.public_key(),
    })
}
