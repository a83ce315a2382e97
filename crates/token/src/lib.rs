//! The site's key in a token behind PKCS#11 instead of in a file: a signer for `ledger` that never holds the key itself. A crate of
//! its own because it loads foreign libraries; whoever verifies needs none of it.
//! Start reading at `key.rs`; what is said to the module is in `token.rs`.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod error;
mod key;
mod token;
mod worker;

pub use error::TokenError;
pub use key::{TokenKey, TokenSettings};
