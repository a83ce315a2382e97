//! A witness of other logs: remembers the newest head of each, cosigns only what continues it. Source: C2SP tlog-witness,
//! add-checkpoint. [`judge`] decides and touches nothing; [`Witness`] remembers, in files. HTTP is somebody else's.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint::{Checkpoint, decimal};
use crate::error::LedgerError;
use crate::hash::{Hash, empty_root, plain_hash};
use crate::key::Signer;
use crate::log::{Clock, Folder, lock};
use crate::note::{KeyKind, Note, NoteSignature, VerifierKey};
use crate::proof::verify_consistency;

/// Why a checkpoint is not cosigned. In the comments the status that the protocol answers with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// 400
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// 404
    #[error("the log `{0}` is unknown to this witness")]
    UnknownLog(String),
    /// 403
    #[error("the checkpoint is not signed by its log: {0}")]
    Unsigned(LedgerError),
    /// 409, with the size in the body as text/x.tlog.size
    #[error("the last cosigned checkpoint has {size} entries; prove from there")]
    Conflict { size: u64 },
    /// 422
    #[error("the checkpoint does not continue the last one: {0}")]
    Inconsistent(LedgerError),
    /// 500
    #[error(transparent)]
    Failed(LedgerError),
}

/// The newest head that was cosigned. Of a log that was never seen: [`Seen::default`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub size: u64,
    pub root: Hash,
    pub time_s: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { size: 0, root: empty_root(), time_s: 0 }
    }
}

/// A request's body: where the client believes us to be, the proof from there, and the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    pub old_size: u64,
    pub proof: Vec<Hash>,
    pub note: Note,
}

impl AddCheckpoint {
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(body: &str) -> Result<Self, Refusal> {
        let (head, note) = body.split_once("\n\n").ok_or(Refusal::Malformed("it has no blank line"))?;
        let mut lines = head.split('\n');
        let old_size = lines.next().and_then(|line| decimal(line.strip_prefix("old ")?));
        let old_size = old_size.ok_or(Refusal::Malformed("its first line is not `old` and a size"))?;
        let proof: Option<Vec<Hash>> = lines.map(Hash::from_base64).collect();
        let proof = proof.ok_or(Refusal::Malformed("a line of the proof is no hash"))?;
        if proof.len() > PROOF_LIMIT {
            return Err(Refusal::Malformed("the proof has more than 63 hashes"));
        }
        let note = note.parse().map_err(|_| Refusal::Malformed("it holds no signed note"))?;
        Ok(Self { old_size, proof, note })
    }

    /// The body that a log sends.
    pub fn body(&self) -> String {
        let proof: String = self.proof.iter().map(|hash| format!("{hash}\n")).collect();
        format!("old {}\n{proof}\n{}", self.old_size, self.note)
    }
}

/// May this be cosigned by a witness that has seen this much of the log? `keys`: those trusted for logs, by their origin.
///
/// # Errors
/// Why not, in the protocol's order.
pub fn judge(
    request: &AddCheckpoint,
    keys: &[VerifierKey],
    seen: impl FnOnce(&str) -> Result<Seen, LedgerError>,
) -> Result<(Checkpoint, Seen), Refusal> {
    let claimed: Checkpoint = request.note.text.parse().map_err(|_| Refusal::Malformed("it holds no checkpoint"))?;
    let keys: Vec<VerifierKey> =
        keys.iter().filter(|key| key.name == claimed.origin && key.kind == KeyKind::Ed25519).cloned().collect();
    if keys.is_empty() {
        return Err(Refusal::UnknownLog(claimed.origin));
    }
    let (checkpoint, _) = Checkpoint::verified(&request.note, &keys).map_err(Refusal::Unsigned)?;
    if request.old_size > checkpoint.size {
        return Err(Refusal::Malformed("the old size is above the checkpoint's"));
    }
    let seen = seen(&checkpoint.origin).map_err(Refusal::Failed)?;
    if request.old_size != seen.size {
        return Err(Refusal::Conflict { size: seen.size });
    }
    if checkpoint.size == 0 && checkpoint.root != empty_root() {
        let reason = "the empty tree has another root";
        return Err(Refusal::Inconsistent(LedgerError::BadProof { reason }));
    }
    verify_consistency(seen.size, seen.root, checkpoint.size, checkpoint.root, &request.proof)
        .map_err(Refusal::Inconsistent)?;
    Ok((checkpoint, seen))
}

/// A witness and its memory. The memory of each log is the cosigned note that a monitor may fetch.
pub struct Witness {
    name: String,
    signer: Arc<dyn Signer>,
    clock: Clock,
    logs: Vec<VerifierKey>,
    folder: Mutex<Folder>,
    _lock: File,
}

impl Witness {
    /// `logs`: the keys of the logs that are witnessed, each named as its log's origin.
    ///
    /// # Errors
    /// [`LedgerError::InUse`]; a folder that cannot be written.
    pub fn open(
        folder: &Path,
        name: &str,
        signer: Arc<dyn Signer>,
        clock: Clock,
        logs: Vec<VerifierKey>,
    ) -> Result<Self, LedgerError> {
        VerifierKey::new(name, KeyKind::Cosignature, signer.public_key())?;
        std::fs::create_dir_all(folder).map_err(LedgerError::io("create", folder))?;
        let lock = lock(folder)?;
        Ok(Self { name: name.to_owned(), signer, clock, logs, folder: Mutex::new(Folder::new(folder)), _lock: lock })
    }

    /// What others must trust to count this witness.
    ///
    /// # Errors
    /// None after [`Witness::open`].
    pub fn key(&self) -> Result<VerifierKey, LedgerError> {
        VerifierKey::new(&self.name, KeyKind::Cosignature, self.signer.public_key())
    }

    /// Answers a request's body with the line of the cosignature, newline included, once it is remembered for good.
    ///
    /// # Errors
    /// A [`Refusal`], after which nothing has changed.
    pub fn add_checkpoint(&self, body: &str) -> Result<String, Refusal> {
        let request = AddCheckpoint::parse(body)?;
        // One at a time: between the check and the memory nobody may come in.
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        let (checkpoint, seen) = judge(&request, &self.logs, |origin| self.seen(&folder, origin))?;
        let time_s = (self.clock)().max(seen.time_s).max(1);
        let signature = NoteSignature::cosignature(&self.name, &request.note.text, time_s, &*self.signer);
        let signature = signature.map_err(Refusal::Failed)?;
        let mut note = request.note;
        // Of the log's lines only those that were verified are kept.
        note.signatures.retain(|line| self.logs.iter().any(|key| key.name == line.name && key.id() == line.key_id));
        note.signatures.push(signature.clone());
        let path = Self::path(&checkpoint.origin);
        folder.write_durably(&path, note.to_string().as_bytes()).map_err(Refusal::Failed)?;
        Ok(format!("{signature}\n"))
    }

    /// The newest cosigned note of a log, for monitors.
    ///
    /// # Errors
    /// A memory that is damaged or cannot be read.
    pub fn latest(&self, origin: &str) -> Result<Option<Note>, LedgerError> {
        Self::remembered(&self.folder.lock().unwrap_or_else(PoisonError::into_inner), &Self::path(origin))
    }

    /// As [`Witness::latest`], by what monitors ask with: the SHA-256 of the origin, in hexadecimal.
    ///
    /// # Errors
    /// As [`Witness::latest`].
    pub fn latest_by_hash(&self, hex: &str) -> Result<Option<Note>, LedgerError> {
        // It becomes a path.
        if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        Self::remembered(&folder, &format!("{hex}/checkpoint"))
    }

    fn seen(&self, folder: &Folder, origin: &str) -> Result<Seen, LedgerError> {
        let Some(note) = Self::remembered(folder, &Self::path(origin))? else { return Ok(Seen::default()) };
        let mut keys: Vec<VerifierKey> = self.logs.iter().filter(|key| key.name == origin).cloned().collect();
        keys.push(self.key()?);
        let (checkpoint, cosignatures) = Checkpoint::verified(&note, &keys)?;
        let time_s = cosignatures.first().ok_or(LedgerError::NotSigned)?.time_s;
        Ok(Seen { size: checkpoint.size, root: checkpoint.root, time_s })
    }

    fn remembered(folder: &Folder, path: &str) -> Result<Option<Note>, LedgerError> {
        let Some(bytes) = folder.read(path)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| LedgerError::BadNote { reason: "it is not UTF-8" })?;
        text.parse().map(Some)
    }

    /// As the protocol's monitoring address: the origin's SHA-256 in hex.
    fn path(origin: &str) -> String {
        let hex: String = plain_hash(origin.as_bytes()).0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}/checkpoint")
    }
}

const PROOF_LIMIT: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::key::FileKey;
    use crate::note::verified;
    use crate::tree::Tree;
    use crate::tree::tests::Memory;

    const ORIGIN: &str = "site.example/ledger";

    /// What a log of `size` entries sends to a witness that has seen `old` of them.
    fn request(size: usize, old: u64, salt: &str) -> AddCheckpoint {
        let leaves: Vec<Hash> = (0..size).map(|index| leaf_hash(format!("{salt}{index}").as_bytes())).collect();
        let (tiles, root) = Memory::of(&leaves);
        let checkpoint = Checkpoint { origin: ORIGIN.into(), size: size as u64, root, extensions: vec![] };
        let note = checkpoint.sign(5, &FileKey::from_seed(&[1; 32]).unwrap()).unwrap();
        let proof = Tree::new(size as u64, &tiles).consistency(old).unwrap_or_default();
        AddCheckpoint { old_size: old, proof, note }
    }

    fn open(folder: &Path, time_s: u64) -> Witness {
        let log = FileKey::from_seed(&[1; 32]).unwrap().public_key();
        let logs = Checkpoint::keys(ORIGIN, log).unwrap()[..1].to_vec();
        let signer = Arc::new(FileKey::from_seed(&[2; 32]).unwrap());
        Witness::open(folder, "w.example/w1", signer, Arc::new(move || time_s), logs).unwrap()
    }

    #[test]
    fn cosigns_what_continues_and_remembers_it() {
        let folder = tempfile::tempdir().unwrap();
        let witness = open(folder.path(), 1000);
        assert!(witness.latest(ORIGIN).unwrap().is_none());
        for (size, old) in [(0, 0), (3, 0), (3, 3), (300, 3)] {
            let request = request(size, old, "");
            let line = witness.add_checkpoint(&request.body()).unwrap();
            let note: Note = format!("{}{line}", request.note).parse().unwrap();
            let key = witness.key().unwrap();
            assert_eq!(verified(&note, std::slice::from_ref(&key)).unwrap(), [(&key, Some(1000))]);
            assert_eq!(witness.latest(ORIGIN).unwrap().unwrap().text, request.note.text);
        }
        drop(witness);
        // Another process, a clock that was set back.
        let witness = open(folder.path(), 10);
        assert!(matches!(witness.add_checkpoint(&request(400, 3, "").body()), Err(Refusal::Conflict { size: 300 })));
        let line = witness.add_checkpoint(&request(400, 300, "").body()).unwrap();
        assert_eq!(NoteSignature::parse(line.trim_end()).unwrap().bytes[..8], 1000u64.to_be_bytes());
    }

    #[test]
    fn refuses_in_the_protocols_words() {
        let folder = tempfile::tempdir().unwrap();
        let witness = open(folder.path(), 1000);
        witness.add_checkpoint(&request(10, 0, "").body()).unwrap();
        let ask = |request: &AddCheckpoint| witness.add_checkpoint(&request.body()).unwrap_err();
        assert!(matches!(ask(&request(20, 10, "fork")), Refusal::Inconsistent(_)));
        assert!(matches!(ask(&request(10, 10, "fork")), Refusal::Inconsistent(_)));
        assert!(matches!(ask(&request(5, 10, "")), Refusal::Malformed(_)));
        assert!(matches!(ask(&request(5, 5, "")), Refusal::Conflict { size: 10 }));
        assert!(matches!(ask(&request(20, 0, "")), Refusal::Conflict { size: 10 }));
        let good = request(20, 10, "");
        let mut wrong = good.clone();
        wrong.proof.pop();
        assert!(matches!(ask(&wrong), Refusal::Inconsistent(_)));
        let mut wrong = good.clone();
        wrong.note.signatures[0].bytes[0] ^= 1;
        assert!(matches!(ask(&wrong), Refusal::Unsigned(LedgerError::BadSignature { .. })));
        let mut wrong = good.clone();
        wrong.note.signatures.remove(0);
        assert!(matches!(ask(&wrong), Refusal::Unsigned(LedgerError::NotSigned)));
        let mut wrong = good.clone();
        wrong.note.text = wrong.note.text.replace("site", "other");
        assert!(matches!(ask(&wrong), Refusal::UnknownLog(_)));
        let mut wrong = good.clone();
        wrong.proof = vec![empty_root(); 64];
        assert!(matches!(ask(&wrong), Refusal::Malformed(_)));
        let body = good.body();
        for wrong in ["", "old 10\n", &body.replace("old 10", "old 010"), &body.replace("old", "new")] {
            assert!(matches!(witness.add_checkpoint(wrong), Err(Refusal::Malformed(_))));
        }
        // None of that was remembered, and a damaged memory is no empty one.
        witness.add_checkpoint(&body).unwrap();
        let path = folder.path().join(Witness::path(ORIGIN));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\n20\n", "\n21\n", 1)).unwrap();
        assert!(matches!(witness.add_checkpoint(&request(30, 20, "").body()), Err(Refusal::Failed(_))));
    }
}
