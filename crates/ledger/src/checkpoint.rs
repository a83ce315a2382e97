//! The signed head of a log. Source: C2SP tlog-checkpoint. Our own checkpoints carry two lines of the log's key: the plain
//! signature, and a cosignature that says when, because the text itself has no time.

use std::fmt;
use std::str::FromStr;

use crate::error::LedgerError;
use crate::hash::Hash;
use crate::key::Signer;
use crate::note::{KeyKind, Note, NoteSignature, VerifierKey, check_name, verified};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: a URL without its scheme, as a rule.
    pub origin: String,
    pub size: u64,
    pub root: Hash,
    /// Lines that mean nothing here and are signed all the same. Ours have none.
    pub extensions: Vec<String>,
}

/// A cosignature that verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosignature {
    pub name: String,
    pub time_s: u64,
}

impl Checkpoint {
    /// The note that the log publishes.
    ///
    /// # Errors
    /// An origin that notes cannot carry; a key that cannot be reached.
    pub fn sign(&self, time_s: u64, signer: &dyn Signer) -> Result<Note, LedgerError> {
        let text = self.to_string();
        let signatures = vec![
            NoteSignature::ed25519(&self.origin, &text, signer)?,
            NoteSignature::cosignature(&self.origin, &text, time_s, signer)?,
        ];
        Ok(Note { text, signatures })
    }

    /// The keys whose lines [`Checkpoint::sign`] makes.
    ///
    /// # Errors
    /// An origin that notes cannot carry.
    pub fn keys(origin: &str, public_key: [u8; 32]) -> Result<[VerifierKey; 2], LedgerError> {
        let key = |kind| VerifierKey::new(origin, kind, public_key);
        Ok([key(KeyKind::Ed25519)?, key(KeyKind::Cosignature)?])
    }

    /// Reads a note that one of `keys` signed for its own log, with the cosignatures of those among them that made one.
    ///
    /// # Errors
    /// A malformed checkpoint, a signature of a known key that fails, or none by the log itself.
    pub fn verified(note: &Note, keys: &[VerifierKey]) -> Result<(Self, Vec<Cosignature>), LedgerError> {
        let checkpoint: Self = note.text.parse()?;
        let found = verified(note, keys)?;
        if !found.iter().any(|(key, _)| key.kind == KeyKind::Ed25519 && key.name == checkpoint.origin) {
            return Err(LedgerError::NotSigned);
        }
        let cosignatures =
            found.into_iter().filter_map(|(key, time)| Some(Cosignature { name: key.name.clone(), time_s: time? }));
        Ok((checkpoint, cosignatures.collect()))
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl FromStr for Checkpoint {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let bad = |reason| LedgerError::BadCheckpoint { reason };
        let mut lines = text.strip_suffix('\n').ok_or(bad("its last line does not end"))?.split('\n');
        let origin = lines.next().filter(|origin| !origin.is_empty()).ok_or(bad("it has no origin"))?;
        if check_name(origin).is_err() {
            return Err(bad("its origin is no name of a log"));
        }
        let size = lines.next().and_then(decimal).ok_or(bad("its size is no plain number"))?;
        let root = lines.next().and_then(Hash::from_base64).ok_or(bad("its root is no Base64 of 32 bytes"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(bad("it has an empty line"));
        }
        Ok(Self { origin: origin.to_owned(), size, root, extensions })
    }
}

/// A number as notes and proofs write it: digits, no sign, no zero in front.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::empty_root;
    use crate::key::FileKey;

    #[test]
    fn the_example_of_the_specification_reads() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let checkpoint: Checkpoint = text.parse().unwrap();
        assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(checkpoint.to_string(), text);
        let more = format!("{text}extension\n");
        assert_eq!(more.parse::<Checkpoint>().unwrap().to_string(), more);
        for (from, to) in [
            ("20852163", "020852163"),
            ("20852163", "+20852163"),
            ("20852163", ""),
            ("2I=", "2J="),
            ("2I=\n", "2I="),
            ("example.com/behind-the-sofa", ""),
            ("2I=\n", "2I=\n\n"),
        ] {
            assert!(text.replace(from, to).parse::<Checkpoint>().is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn a_checkpoint_needs_its_own_logs_signature() {
        let key = FileKey::from_seed(&[1; 32]).unwrap();
        let checkpoint =
            Checkpoint { origin: "site.example/ledger".into(), size: 0, root: empty_root(), extensions: vec![] };
        let note: Note = checkpoint.sign(1_800_000_000, &key).unwrap().to_string().parse().unwrap();
        let keys = Checkpoint::keys("site.example/ledger", key.public_key()).unwrap();
        let (read, cosignatures) = Checkpoint::verified(&note, &keys).unwrap();
        assert_eq!((read, cosignatures[0].time_s), (checkpoint.clone(), 1_800_000_000));
        let elsewhere = Checkpoint::keys("other.example/ledger", key.public_key()).unwrap();
        assert!(matches!(Checkpoint::verified(&note, &elsewhere), Err(LedgerError::NotSigned)));
        // A key of another log that signs this text is not this log.
        let mut forged = note;
        forged.signatures =
            vec![NoteSignature::ed25519("other.example/ledger", &checkpoint.to_string(), &key).unwrap()];
        assert!(matches!(Checkpoint::verified(&forged, &elsewhere), Err(LedgerError::NotSigned)));
    }
}
