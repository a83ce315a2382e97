//! Signed notes, verifier keys and cosignatures. Sources: C2SP signed-note and tlog-cosignature (Ed25519 only).
//! What the text of a checkpoint means is in `checkpoint.rs`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::LedgerError;
use crate::hash::joined;
use crate::key::{Signer, verify_ed25519};

/// A text and who signed it. Nothing of it may be believed before [`verified`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Ends with a newline.
    pub text: String,
    pub signatures: Vec<NoteSignature>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    pub name: String,
    pub key_id: u32,
    pub bytes: Vec<u8>,
}

/// The two kinds of signature that Falaj makes and checks; others are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A log's signature over the text.
    Ed25519 = 1,
    /// A witness's signature over the text and a time.
    Cosignature = 4,
}

/// Whose signatures count: a name, a kind and a public key. Shows as C2SP's vkey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    pub name: String,
    pub kind: KeyKind,
    pub public_key: [u8; 32],
}

/// The signatures of a note that known keys made: for each the key, and the time (seconds since 1970) if it is a cosignature.
///
/// # Errors
/// [`LedgerError::BadSignature`] when one that claims to be of a known key fails; [`LedgerError::NotSigned`] when none is.
pub fn verified<'k>(note: &Note, keys: &'k [VerifierKey]) -> Result<Vec<(&'k VerifierKey, Option<u64>)>, LedgerError> {
    let mut found = Vec::new();
    for signature in &note.signatures {
        for key in keys.iter().filter(|key| key.name == signature.name && key.id() == signature.key_id) {
            found.push((key, signature.check(&note.text, key)?));
        }
    }
    if found.is_empty() { Err(LedgerError::NotSigned) } else { Ok(found) }
}

impl NoteSignature {
    /// Signs the text as the log or party `name`.
    ///
    /// # Errors
    /// A name that notes cannot carry; a key that cannot be reached.
    pub fn ed25519(name: &str, text: &str, signer: &dyn Signer) -> Result<Self, LedgerError> {
        let key = VerifierKey::new(name, KeyKind::Ed25519, signer.public_key())?;
        Ok(Self { name: name.to_owned(), key_id: key.id(), bytes: signer.sign(text.as_bytes())?.to_vec() })
    }

    /// Cosigns the text of a checkpoint at a time, in seconds since 1970.
    ///
    /// # Errors
    /// A name that notes cannot carry; a key that cannot be reached.
    pub fn cosignature(name: &str, text: &str, time_s: u64, signer: &dyn Signer) -> Result<Self, LedgerError> {
        let key = VerifierKey::new(name, KeyKind::Cosignature, signer.public_key())?;
        let signature = signer.sign(&cosigned(time_s, text))?;
        let bytes = [&time_s.to_be_bytes()[..], &signature].concat();
        Ok(Self { name: name.to_owned(), key_id: key.id(), bytes })
    }

    fn check(&self, text: &str, key: &VerifierKey) -> Result<Option<u64>, LedgerError> {
        let bad = || LedgerError::BadSignature { name: self.name.clone() };
        let (message, signature, time) = match key.kind {
            KeyKind::Ed25519 => (text.as_bytes().to_vec(), self.bytes.as_slice(), None),
            KeyKind::Cosignature => {
                let (time, signature) = self.bytes.split_first_chunk::<8>().ok_or_else(bad)?;
                let time = u64::from_be_bytes(*time);
                if time > i64::MAX as u64 {
                    return Err(bad());
                }
                (cosigned(time, text), signature, Some(time))
            }
        };
        if verify_ed25519(&key.public_key, &message, signature) { Ok(time) } else { Err(bad()) }
    }

    /// Reads one line without its newline.
    ///
    /// # Errors
    /// [`LedgerError::BadNote`].
    pub fn parse(line: &str) -> Result<Self, LedgerError> {
        let bad = || LedgerError::BadNote { reason: "a line after the blank one is no signature" };
        let (name, encoded) = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' ')).ok_or_else(bad)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| bad())?;
        let (key_id, signature) = bytes.split_first_chunk::<4>().ok_or_else(bad)?;
        if check_name(name).is_err() || signature.is_empty() {
            return Err(bad());
        }
        Ok(Self { name: name.to_owned(), key_id: u32::from_be_bytes(*key_id), bytes: signature.to_vec() })
    }
}

fn cosigned(time_s: u64, text: &str) -> Vec<u8> {
    format!("cosignature/v1\ntime {time_s}\n{text}").into_bytes()
}

impl fmt::Display for NoteSignature {
    /// The line without its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id.to_be_bytes()[..], &self.bytes].concat();
        write!(f, "\u{2014} {} {}", self.name, STANDARD.encode(bytes))
    }
}

impl FromStr for Note {
    type Err = LedgerError;

    fn from_str(note: &str) -> Result<Self, LedgerError> {
        let bad = |reason| LedgerError::BadNote { reason };
        if note.len() > NOTE_LIMIT_BYTES {
            return Err(bad("it is too long"));
        }
        if note.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
            return Err(bad("it holds control characters"));
        }
        let at = note.rfind("\n\n").ok_or(bad("it has no blank line before the signatures"))?;
        let (text, lines) = note.split_at_checked(at + 1).ok_or(bad("it is empty"))?;
        let lines = lines.strip_prefix('\n').and_then(|lines| lines.strip_suffix('\n'));
        let lines = lines.ok_or(bad("it has no signature or its last line does not end"))?;
        let signatures: Vec<NoteSignature> = lines.split('\n').map(NoteSignature::parse).collect::<Result<_, _>>()?;
        if signatures.len() > SIGNATURE_LIMIT {
            return Err(bad("it has too many signatures"));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl VerifierKey {
    /// # Errors
    /// [`LedgerError::BadName`].
    pub fn new(name: &str, kind: KeyKind, public_key: [u8; 32]) -> Result<Self, LedgerError> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), kind, public_key })
    }

    /// Four bytes of SHA-256 over name, kind and key: finds the key, proves nothing.
    pub fn id(&self) -> u32 {
        let hash = joined(&[self.name.as_bytes(), b"\n", &[self.kind as u8], &self.public_key]);
        let [a, b, c, d, ..] = hash.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.kind as u8][..], &self.public_key].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id(), STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let bad = |reason| LedgerError::BadVerifierKey { text: text.to_owned(), reason };
        // Base64 may hold a plus: only the first two separate.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad("it is not name+id+key"));
        };
        let key = STANDARD.decode(key).map_err(|_| bad("its Base64 is damaged"))?;
        let (kind, key) = key.split_first().ok_or(bad("its key is empty"))?;
        let kind = match kind {
            1 => KeyKind::Ed25519,
            4 => KeyKind::Cosignature,
            _ => return Err(bad("its kind is neither Ed25519 nor Ed25519 cosignature")),
        };
        let found = Self::new(name, kind, key.try_into().map_err(|_| bad("its key has not 32 bytes"))?)?;
        if format!("{:08x}", found.id()) != id {
            return Err(bad("its id is that of another key"));
        }
        Ok(found)
    }
}

/// Names that a signature's line can carry. A log of the name `cosignature/v1` could have its checkpoints taken for
/// cosigned messages, so nobody may be called that.
pub(crate) fn check_name(name: &str) -> Result<(), LedgerError> {
    let odd = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '+';
    if name.is_empty() || name == "cosignature/v1" || name.contains(odd) {
        return Err(LedgerError::BadName { name: name.to_owned() });
    }
    Ok(())
}

const NOTE_LIMIT_BYTES: usize = 1 << 20;
const SIGNATURE_LIMIT: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::FileKey;

    const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    #[test]
    fn the_example_of_the_specification_verifies() {
        let (key, note): (VerifierKey, Note) = (KEY.parse().unwrap(), NOTE.parse().unwrap());
        assert_eq!(verified(&note, std::slice::from_ref(&key)).unwrap(), [(&key, None)]);
        assert_eq!((key.to_string(), note.to_string()), (KEY.to_owned(), NOTE.to_owned()));
        let other: Note = NOTE.replace("an example", "one example").parse().unwrap();
        assert!(matches!(verified(&other, &[key]), Err(LedgerError::BadSignature { .. })));
    }

    #[test]
    fn unknown_keys_are_passed_over_and_known_ones_must_verify() {
        let (key, mut note): (VerifierKey, Note) = (KEY.parse().unwrap(), NOTE.parse().unwrap());
        let mine = FileKey::from_seed(&[7; 32]).unwrap();
        assert!(matches!(verified(&note, &[]), Err(LedgerError::NotSigned)));
        note.signatures.push(NoteSignature::ed25519("example.com/me", &note.text, &mine).unwrap());
        assert_eq!(verified(&note, std::slice::from_ref(&key)).unwrap().len(), 1);
        let me = VerifierKey::new("example.com/me", KeyKind::Ed25519, mine.public_key()).unwrap();
        assert_eq!(verified(&note, &[key.clone(), me.clone()]).unwrap().len(), 2);
        note.signatures[1].bytes[9] ^= 1;
        assert!(verified(&note, std::slice::from_ref(&key)).is_ok());
        assert!(
            matches!(verified(&note, &[key, me]), Err(LedgerError::BadSignature { name }) if name == "example.com/me")
        );
    }

    #[test]
    fn cosignatures_bind_their_time() {
        let key = FileKey::from_seed(&[9; 32]).unwrap();
        let text = "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";
        let mut signature = NoteSignature::cosignature("example.com/w", text, 1_679_315_147, &key).unwrap();
        let witness = [VerifierKey::new("example.com/w", KeyKind::Cosignature, key.public_key()).unwrap()];
        let note = |signature: &NoteSignature| Note { text: text.to_owned(), signatures: vec![signature.clone()] };
        assert_eq!(verified(&note(&signature), &witness).unwrap()[0].1, Some(1_679_315_147));
        assert_eq!(signature.to_string().parse::<String>().unwrap().len(), "\u{2014} example.com/w ".len() + 104);
        signature.bytes[7] ^= 1;
        assert!(verified(&note(&signature), &witness).is_err());
    }

    #[test]
    fn malformed_notes_keys_and_names_are_refused() {
        for bad in [
            "",
            "text\n",
            "text\n\n",
            "text\n\nno dash\n",
            NOTE.trim_end(),
            &NOTE.replace("example", "exa\tmple"),
            &NOTE.replace("aQM=", "aQN="),
            &NOTE.replace("example.com/foo", "a+b"),
            &format!("{NOTE}\n"),
        ] {
            assert!(bad.parse::<Note>().is_err(), "{bad:?}");
        }
        for bad in
            ["", "a", "a+b", "a+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", &KEY.replace("+Ae", "+Ce")]
        {
            assert!(bad.parse::<VerifierKey>().is_err(), "{bad:?}");
        }
        for bad in ["", "a b", "a\u{a0}b", "a+b", "cosignature/v1"] {
            assert!(VerifierKey::new(bad, KeyKind::Ed25519, [0; 32]).is_err(), "{bad:?}");
        }
    }
}
