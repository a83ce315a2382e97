//! Ed25519 keys: a seam for signers that keep the key elsewhere, and the key file, PKCS#8 in PEM as OpenSSL writes it.
//! Key names and ids of signed notes are in `note.rs`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::error::LedgerError;

/// Whoever can sign with one Ed25519 key: a key file, a session's key in memory, a token behind PKCS#11 (the crate `token`).
pub trait Signer: Send + Sync {
    /// 32 bytes as RFC 8032 encodes them.
    fn public_key(&self) -> [u8; 32];

    /// # Errors
    /// [`LedgerError::Signer`] when the key cannot be reached.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], LedgerError>;
}

pub fn verify_ed25519(public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
}

/// A key in this process's memory.
pub struct FileKey {
    pair: Ed25519KeyPair,
}

impl FileKey {
    /// A new key that no file holds.
    ///
    /// # Errors
    /// [`LedgerError::Random`].
    pub fn generate() -> Result<Self, LedgerError> {
        Self::from_seed(&*random::<32>()?)
    }

    /// # Errors
    /// None with 32 bytes, as far as is known.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, LedgerError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| rejected())?;
        Ok(Self { pair })
    }

    /// Makes a key and its file, which must not exist yet; only its owner can read it.
    ///
    /// # Errors
    /// A file that exists, a folder that cannot be written, no random bytes.
    pub fn create(path: &Path) -> Result<Self, LedgerError> {
        let seed = random::<32>()?;
        let der = Zeroizing::new([PKCS8_HEAD, seed.as_slice()].concat());
        let text = Zeroizing::new(format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(der.as_slice())));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(LedgerError::io("create", path))?;
        // Half a key would be in the way of a whole one.
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.inspect_err(|_| drop(fs::remove_file(path))).map_err(LedgerError::io("write", path))?;
        Self::from_seed(&seed)
    }

    /// Reads a file of [`FileKey::create`] or of `openssl genpkey -algorithm ed25519`.
    ///
    /// # Errors
    /// [`LedgerError::OpenKeyFile`] when others may read it; [`LedgerError::BadKeyFile`] when it holds something else.
    pub fn read(path: &Path) -> Result<Self, LedgerError> {
        let bad = |reason| LedgerError::BadKeyFile { path: path.to_path_buf(), reason };
        let mode = fs::metadata(path).map_err(LedgerError::io("read", path))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(LedgerError::OpenKeyFile { path: path.to_path_buf(), mode });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(LedgerError::io("read", path))?);
        let body = text.trim().strip_prefix(PEM_BEGIN).and_then(|rest| rest.strip_suffix(PEM_END));
        let body = Zeroizing::new(body.ok_or(bad("it is no PEM of a private key"))?.replace(['\n', '\r'], ""));
        let der = Zeroizing::new(STANDARD.decode(body.as_str()).map_err(|_| bad("its Base64 is damaged"))?);
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| bad("it is no Ed25519 key in PKCS#8"))?;
        Ok(Self { pair })
    }
}

impl Signer for FileKey {
    fn public_key(&self) -> [u8; 32] {
        self.pair.public_key().as_ref().try_into().unwrap_or_default()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], LedgerError> {
        self.pair.sign(message).as_ref().try_into().map_err(|_| rejected())
    }
}

pub(crate) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, LedgerError> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(bytes.as_mut_slice()).map_err(|_| LedgerError::Random)?;
    Ok(bytes)
}

fn rejected() -> LedgerError {
    LedgerError::Signer { reason: "the key was rejected".to_owned() }
}

/// RFC 8410's PrivateKeyInfo up to the 32 bytes of the seed: version 0, id-Ed25519, an octet string in an octet string.
const PKCS8_HEAD: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// RFC 8032, section 7.1, test 2, and the same key as OpenSSL writes it.
    #[test]
    fn signs_as_the_rfc_says_from_a_file_of_openssl() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n-----END PRIVATE KEY-----\n";
        fs::write(&path, pem).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let key = FileKey::read(&path).unwrap();
        assert_eq!(STANDARD.encode(key.public_key()), "PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=");
        let signature = key.sign(b"\x72").unwrap();
        assert_eq!(signature[..8], [0x92, 0xa0, 0x09, 0xa9, 0xf0, 0xd4, 0xca, 0xb8]);
        assert!(verify_ed25519(&key.public_key(), b"\x72", &signature));
        assert!(!verify_ed25519(&key.public_key(), b"\x73", &signature));
    }

    #[test]
    fn key_files_are_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let key = FileKey::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(FileKey::read(&path).unwrap().public_key(), key.public_key());
        assert!(FileKey::create(&path).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(FileKey::read(&path), Err(LedgerError::OpenKeyFile { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("MC4C", "MC4D")).unwrap();
        assert!(matches!(FileKey::read(&path), Err(LedgerError::BadKeyFile { .. })));
    }
}
