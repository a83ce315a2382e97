//! Session keys: the key of a site signs once an hour, for a key that lives in memory and signs that hour's receipts. The
//! certificate is COSE_Sign1 as well, and stands in the log before the first receipt of its session.

use crate::cbor::{self, Fields, Record, key_id};
use crate::error::LedgerError;
use crate::key::Signer;

/// Who may sign receipts, for which site, from when until when (seconds since 1970, both included).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub site: String,
    pub public_key: [u8; 32],
    pub from_s: u64,
    pub until_s: u64,
}

/// How long a session key signs.
pub const SESSION_S: u64 = 3600;
/// What is left of it at least when a request is admitted, so that its receipt is signed even if the site's key is gone by then.
pub const SESSION_LEFT_S: u64 = 600;

impl Session {
    /// The certificate, by the site's key.
    ///
    /// # Errors
    /// A key that cannot be reached.
    pub fn certify(&self, site_key: &dyn Signer) -> Result<Vec<u8>, LedgerError> {
        cbor::sign(self, PURPOSE, site_key)
    }

    /// Reads a certificate, strictly.
    ///
    /// # Errors
    /// [`LedgerError::BadRecord`]: another encoding, another signer, a session longer than an hour.
    pub fn verified(certificate: &[u8], site_key: &[u8; 32]) -> Result<Self, LedgerError> {
        let session: Self = cbor::verified(certificate, PURPOSE, site_key)?;
        if session.until_s.checked_sub(session.from_s).is_none_or(|length| length > SESSION_S) {
            return Err(LedgerError::BadRecord { what: Self::WHAT, reason: "it lasts longer than an hour" });
        }
        Ok(session)
    }

    pub fn covers(&self, time_s: u64) -> bool {
        (self.from_s..=self.until_s).contains(&time_s)
    }

    /// What receipts of this session carry as their key's id.
    pub fn key_id(&self) -> Vec<u8> {
        key_id(&self.public_key)
    }
}

impl Record for Session {
    const WHAT: &'static str = "session certificate";

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        fields.put(1, VERSION).put(2, self.site.as_str()).put(3, self.public_key.to_vec());
        fields.put(4, self.from_s).put(5, self.until_s);
        fields
    }

    fn from_fields(fields: &mut Fields) -> Option<Self> {
        if fields.number(1)? != VERSION {
            return None;
        }
        let (site, public_key) = (fields.text(2)?, fields.bytes(3)?);
        Some(Self { site, public_key, from_s: fields.number(4)?, until_s: fields.number(5)? })
    }
}

const VERSION: u64 = 1;
const PURPOSE: &[u8] = b"falaj session v1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::FileKey;

    #[test]
    fn a_certificate_is_of_one_site_key_and_one_hour() {
        let (site, key) = (FileKey::from_seed(&[1; 32]).unwrap(), FileKey::from_seed(&[2; 32]).unwrap());
        let mut session =
            Session { site: "a.example".into(), public_key: key.public_key(), from_s: 100, until_s: 3700 };
        let certificate = session.certify(&site).unwrap();
        assert_eq!(Session::verified(&certificate, &site.public_key()).unwrap(), session);
        assert!(Session::verified(&certificate, &key.public_key()).is_err());
        for at in 0..certificate.len() {
            let mut wrong = certificate.clone();
            wrong[at] ^= 1;
            assert!(Session::verified(&wrong, &site.public_key()).is_err(), "{at}");
        }
        session.until_s += 1;
        assert!(Session::verified(&session.certify(&site).unwrap(), &site.public_key()).is_err());
    }
}
