//! What is said to a PKCS#11 module: which token, who logs in, which of its objects is the key. Names of constants are those of
//! OASIS PKCS #11 3.0; Ed25519 is `CKM_EDDSA` without parameters.

use std::fs;
use std::os::unix::fs::MetadataExt;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use crate::error::TokenError;
use crate::key::TokenSettings;

/// A token that is there, nobody logged in.
pub(crate) struct Token {
    module: Pkcs11,
    slot: Slot,
}

/// Somebody logged in, and the key found.
pub(crate) struct Login {
    session: Session,
    private: ObjectHandle,
    pub(crate) public_key: [u8; 32],
}

impl Token {
    pub(crate) fn find(settings: &TokenSettings) -> Result<Self, TokenError> {
        let module = load(settings)?;
        let (mut found, mut slots) = (Vec::new(), Vec::new());
        for slot in module.get_slots_with_token().map_err(failed(settings))? {
            // One that is being pulled out is not there.
            let Ok(info) = module.get_token_info(slot) else { continue };
            let label = info.label().trim_end();
            match label == settings.token {
                true => slots.push(slot),
                false if info.token_initialized() => found.push(label.to_owned()),
                false => {}
            }
        }
        let token = settings.token.clone();
        match slots.as_slice() {
            [] => Err(TokenError::NoToken { token, found }),
            [slot] => Ok(Self { slot: *slot, module }),
            many => Err(TokenError::ManyTokens { token, count: many.len() }),
        }
    }

    /// Ends what the module knows and starts it again before looking.
    pub(crate) fn find_anew(settings: &TokenSettings) -> Result<Self, TokenError> {
        // Where that fails the next line says what is wrong.
        let _ = load(settings)?.finalize();
        Self::find(settings)
    }

    pub(crate) fn public_key(&self, settings: &TokenSettings) -> Result<[u8; 32], TokenError> {
        let session = self.module.open_ro_session(self.slot).map_err(failed(settings))?;
        public_key(&session, settings)
    }

    pub(crate) fn log_in(&self, settings: &TokenSettings) -> Result<Login, TokenError> {
        let session = self.module.open_ro_session(self.slot).map_err(failed(settings))?;
        self.authenticate(&session, settings)?;
        let private = object(&session, ObjectClass::PRIVATE_KEY, settings)?;
        let wrong = |reason| wrong_kind(settings, reason);
        let attributes = session.get_attributes(private, &[AttributeType::KeyType, AttributeType::Sign]);
        for attribute in attributes.map_err(failed(settings))? {
            match attribute {
                Attribute::KeyType(kind) if kind != KeyType::EC_EDWARDS => return Err(wrong("its type is another")),
                Attribute::Sign(false) => return Err(wrong("it may not sign")),
                _ => {}
            }
        }
        Ok(Login { private, public_key: public_key(&session, settings)?, session })
    }

    pub(crate) fn make_key(&self, settings: &TokenSettings) -> Result<(), TokenError> {
        let session = self.module.open_rw_session(self.slot).map_err(failed(settings))?;
        self.authenticate(&session, settings)?;
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            match object(&session, class, settings) {
                Err(TokenError::NoKey { .. }) => {}
                Err(error @ TokenError::Failed { .. }) => return Err(error),
                _ => {
                    let (token, key) = (settings.token.clone(), settings.key.clone());
                    return Err(TokenError::KeyExists { token, key });
                }
            }
        }
        let label = settings.key.as_bytes().to_vec();
        let named = |more: &[Attribute]| -> Vec<Attribute> {
            let names = [Attribute::Token(true), Attribute::Label(label.clone()), Attribute::Id(label.clone())];
            names.iter().chain(more).cloned().collect()
        };
        let private = named(&[
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ]);
        let make = |curve: &[u8]| {
            let public =
                named(&[Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(curve.to_vec())]);
            session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &private)
        };
        // Some take the curve by its name only.
        make(ED25519_OID).or_else(|_| make(ED25519_NAME)).map_err(failed(settings)).map(|_| ())
    }

    /// Tries the PIN once.
    fn authenticate(&self, session: &Session, settings: &TokenSettings) -> Result<(), TokenError> {
        let (token, path) = (settings.token.clone(), settings.pin_file.clone());
        let info = self.module.get_token_info(self.slot).map_err(failed(settings))?;
        if info.user_pin_locked() {
            return Err(TokenError::Locked { token });
        }
        if info.user_pin_final_try() {
            return Err(TokenError::LastTry { token, path });
        }
        match session.login(UserType::User, Some(&pin(settings)?)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                Err(TokenError::WrongPin { token, path })
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => Err(TokenError::Locked { token }),
            Err(Error::Pkcs11(RvError::UserPinNotInitialized, _)) => Err(TokenError::NoPin { token }),
            Err(error) => Err(failed(settings)(error)),
        }
    }
}

impl Login {
    /// The reason is the module's word for it.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<[u8; 64], String> {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        let signature = self.session.sign(&mechanism, self.private, message).map_err(|error| error.to_string())?;
        signature.as_slice().try_into().map_err(|_| format!("a signature of {} bytes", signature.len()))
    }
}

fn load(settings: &TokenSettings) -> Result<Pkcs11, TokenError> {
    let wrong = |error: Error| TokenError::Module { path: settings.module.clone(), reason: error.to_string() };
    let module = Pkcs11::new(&settings.module).map_err(wrong)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(error) => Err(wrong(error)),
    }
}

fn pin(settings: &TokenSettings) -> Result<AuthPin, TokenError> {
    let path = &settings.pin_file;
    let failed = |source| TokenError::PinFile { path: path.clone(), source };
    let mode = fs::metadata(path).map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TokenError::OpenPinFile { path: path.clone(), mode });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
    Ok(AuthPin::from(text.trim_end_matches(['\n', '\r'])))
}

/// The one object of a class with the key's label.
fn object(session: &Session, class: ObjectClass, settings: &TokenSettings) -> Result<ObjectHandle, TokenError> {
    let template = [Attribute::Class(class), Attribute::Label(settings.key.as_bytes().to_vec())];
    let (token, key) = (settings.token.clone(), settings.key.clone());
    match session.find_objects(&template).map_err(failed(settings))?.as_slice() {
        [] => Err(TokenError::NoKey { token, key }),
        [object] => Ok(*object),
        many => Err(TokenError::ManyKeys { token, key, count: many.len() }),
    }
}

fn public_key(session: &Session, settings: &TokenSettings) -> Result<[u8; 32], TokenError> {
    let object = object(session, ObjectClass::PUBLIC_KEY, settings)?;
    let attributes = session.get_attributes(object, &[AttributeType::KeyType, AttributeType::EcPoint]);
    let mut point = None;
    for attribute in attributes.map_err(failed(settings))? {
        match attribute {
            Attribute::KeyType(kind) if kind != KeyType::EC_EDWARDS => {
                return Err(wrong_kind(settings, "its type is another"));
            }
            Attribute::EcPoint(bytes) => point = raw_point(&bytes),
            _ => {}
        }
    }
    point.ok_or_else(|| wrong_kind(settings, "its public key is not of 32 bytes"))
}

/// As it is, or in an octet string, or in a bit string: modules differ.
fn raw_point(bytes: &[u8]) -> Option<[u8; 32]> {
    let inner = bytes.strip_prefix(b"\x04\x20").or_else(|| bytes.strip_prefix(b"\x03\x21\x00"));
    match bytes.len() {
        32 => bytes,
        _ => inner?,
    }
    .try_into()
    .ok()
}

fn wrong_kind(settings: &TokenSettings, reason: &'static str) -> TokenError {
    TokenError::WrongKind { token: settings.token.clone(), key: settings.key.clone(), reason }
}

fn failed(settings: &TokenSettings) -> impl Fn(Error) -> TokenError {
    let token = settings.token.clone();
    move |error| TokenError::Failed { token: token.clone(), reason: error.to_string() }
}

/// RFC 8410's id-Ed25519 as an object identifier, and the curve's name as a printable string.
const ED25519_OID: &[u8] = b"\x06\x03\x2b\x65\x70";
const ED25519_NAME: &[u8] = b"\x13\x0cedwards25519";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_come_in_three_coats() {
        let key = [7; 32];
        for coat in [&b""[..], b"\x04\x20", b"\x03\x21\x00"] {
            assert_eq!(raw_point(&[coat, &key].concat()), Some(key));
        }
        // A raw key may begin like a coat.
        let odd = [&b"\x04\x20"[..], &[7; 30]].concat();
        assert_eq!(raw_point(&odd).unwrap().as_slice(), odd);
        for wrong in [&[7; 31][..], &[7; 33], &[7; 57], &[&b"\x04\x21"[..], &key].concat()] {
            assert_eq!(raw_point(wrong), None);
        }
    }
}
