//! A proof in one file that an entry is in a log and that witnesses have seen its head. Source: C2SP tlog-proof. Verifies with
//! nothing but the entry and the keys that one trusts.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::{Checkpoint, decimal};
use crate::error::LedgerError;
use crate::hash::Hash;
use crate::note::{Note, VerifierKey};
use crate::proof::verify_inclusion;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// Not signed by anybody.
    pub extra: Option<Vec<u8>>,
    pub index: u64,
    pub hashes: Vec<Hash>,
    pub note: Note,
}

/// Whom a verifier believes: the log's keys, the witnesses, and how many of these must have cosigned.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pub log: Vec<VerifierKey>,
    pub witnesses: Vec<VerifierKey>,
    pub quorum: usize,
}

impl Trust {
    /// Reads a note that the log and enough witnesses have signed; gives the names of those.
    ///
    /// # Errors
    /// A note that is not trusted by these rules.
    pub fn checkpoint(&self, note: &Note) -> Result<(Checkpoint, BTreeSet<String>), LedgerError> {
        let (checkpoint, _) = Checkpoint::verified(note, &self.log)?;
        let witnesses = match crate::note::verified(note, &self.witnesses) {
            Ok(found) => {
                found.into_iter().filter(|(_, time)| time.is_some()).map(|(key, _)| key.name.clone()).collect()
            }
            Err(LedgerError::NotSigned) => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        if witnesses.len() < self.quorum {
            return Err(LedgerError::NoQuorum { found: witnesses.len(), wanted: self.quorum });
        }
        Ok((checkpoint, witnesses))
    }
}

impl TlogProof {
    /// Is the entry with this leaf hash in a log that this verifier trusts?
    ///
    /// # Errors
    /// A checkpoint that is not trusted; a proof that does not hold.
    pub fn verify(&self, leaf: Hash, trust: &Trust) -> Result<Checkpoint, LedgerError> {
        let (checkpoint, _) = trust.checkpoint(&self.note)?;
        verify_inclusion(leaf, self.index, checkpoint.size, &self.hashes, checkpoint.root)?;
        Ok(checkpoint)
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

impl FromStr for TlogProof {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let bad = |reason| LedgerError::BadProof { reason };
        let (head, note) = text.split_once("\n\n").ok_or(bad("it has no blank line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEAD) {
            return Err(bad("its first line is not that of a tlog-proof"));
        }
        let extra = lines.next_if(|line| line.starts_with("extra ")).and_then(|line| line.strip_prefix("extra "));
        let extra =
            extra.map(|extra| STANDARD.decode(extra).map_err(|_| bad("its extra data is no Base64"))).transpose()?;
        let index = lines.next().and_then(|line| decimal(line.strip_prefix("index ")?));
        let index = index.ok_or(bad("its index is no plain number"))?;
        let hashes: Option<Vec<Hash>> = lines.map(Hash::from_base64).collect();
        let hashes = hashes.filter(|hashes| hashes.len() <= 63).ok_or(bad("a line of it is no hash"))?;
        Ok(Self { extra, index, hashes, note: note.parse()? })
    }
}

const HEAD: &str = "c2sp.org/tlog-proof@v1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::key::{FileKey, Signer};
    use crate::note::{KeyKind, NoteSignature};
    use crate::tree::Tree;
    use crate::tree::tests::Memory;

    #[test]
    fn a_proof_travels_as_text_and_needs_its_quorum() {
        let leaves: Vec<Hash> = (0..300u32).map(|index| leaf_hash(&index.to_be_bytes())).collect();
        let (tiles, root) = Memory::of(&leaves);
        let key = |seed: u8| FileKey::from_seed(&[seed; 32]).unwrap();
        let checkpoint = Checkpoint { origin: "a.example/log".into(), size: 300, root, extensions: vec![] };
        let mut note = checkpoint.sign(7, &key(1)).unwrap();
        let mut witnesses = Vec::new();
        for (seed, name) in [(2, "w.example/1"), (3, "w.example/2")] {
            note.signatures.push(NoteSignature::cosignature(name, &note.text, 8, &key(seed)).unwrap());
            witnesses.push(VerifierKey::new(name, KeyKind::Cosignature, key(seed).public_key()).unwrap());
        }
        let hashes = Tree::new(300, &tiles).inclusion(255).unwrap();
        let log = Checkpoint::keys("a.example/log", key(1).public_key()).unwrap().to_vec();
        let trust = |quorum| Trust { log: log.clone(), witnesses: witnesses.clone(), quorum };
        for extra in [None, Some(b"more".to_vec())] {
            let proof = TlogProof { extra, index: 255, hashes: hashes.clone(), note: note.clone() };
            let read: TlogProof = proof.to_string().parse().unwrap();
            assert_eq!(read, proof);
            assert_eq!(read.verify(leaves[255], &trust(2)).unwrap(), checkpoint);
            assert!(read.verify(leaves[254], &trust(2)).is_err());
            assert!(matches!(read.verify(leaves[255], &trust(3)), Err(LedgerError::NoQuorum { found: 2, wanted: 3 })));
            // The log's own times are no witness.
            let own = Trust { witnesses: vec![], quorum: 1, ..trust(0) };
            assert!(matches!(read.verify(leaves[255], &own), Err(LedgerError::NoQuorum { found: 0, .. })));
            for (from, to) in [("@v1", "@v2"), ("index 255", "index 0255"), ("index", "place"), ("\n\n", "\n")] {
                assert!(proof.to_string().replacen(from, to, 1).parse::<TlogProof>().is_err(), "{from}");
            }
        }
    }
}
