//! Brings the heads of this site's ledger to its witnesses, and keeps what they sign. A thread that nobody waits for: a witness that
//! is away delays nothing, and is asked again.

use crate::config;
use crate::failure::Outcome;
use crate::witness::SIZE;
use falaj_ledger::{AddCheckpoint, LedgerError, Log, NoteSignature, Published, Tree, VerifierKey};
use falaj_server::Book;
use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use ureq::Agent;

/// Ends with its owner.
pub struct Cosigning(Option<(SyncSender<()>, JoinHandle<()>)>);

const EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);
/// A cosignature is a line.
const ANSWER_LIMIT_BYTES: u64 = 4096;

impl Cosigning {
    pub fn start(book: &Book, site: &config::Site) -> Outcome<Self> {
        if site.witnesses.is_empty() {
            return Ok(Self(None));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .max_redirects(0)
            .build()
            .new_agent();
        let (log, own, witnesses) = (Arc::downgrade(book.log()), book.key().clone(), site.witnesses.clone());
        let mut rounds = Rounds { log, own, agent, witnesses, seen: HashMap::new() };
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new().name("cosign".to_owned()).spawn(move || {
            let mut last = 0;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
                last = rounds.round(last);
            }
        })?;
        Ok(Self(Some((stop, thread))))
    }
}

impl Drop for Cosigning {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

struct Rounds {
    /// Whoever serves owns the log: it must end when that ends.
    log: Weak<Log>,
    own: VerifierKey,
    agent: Agent,
    witnesses: Vec<(String, VerifierKey)>,
    /// Size of the head that each witness cosigned last, by its address.
    seen: HashMap<String, u64>,
}

impl Rounds {
    /// Brings the newest head to every witness if it is larger than `last`. Gives the size that all of them have.
    fn round(&mut self, last: u64) -> u64 {
        let Some(log) = self.log.upgrade() else { return last };
        let Some(published) = log.published().filter(|published| published.size > last) else { return last };
        let mut note = published.note.clone();
        let mut signed = 0;
        for (url, key) in self.witnesses.clone() {
            match self.ask(&log, &published, &url) {
                Ok(line) => {
                    note.signatures.push(line);
                    signed += 1;
                }
                Err(reason) => tracing::warn!(witness = key.name, reason, "the ledger's head was not cosigned"),
            }
        }
        if signed == 0 {
            return last;
        }
        let keys: Vec<VerifierKey> = self.witnesses.iter().map(|(_, key)| key.clone()).collect();
        match log.keep_cosigned(&note, &self.own, &keys) {
            Ok(()) if signed == self.witnesses.len() => published.size,
            Ok(()) => last,
            Err(error) => {
                tracing::error!(%error, "what the witnesses signed cannot be kept");
                last
            }
        }
    }

    /// Asks once, and once more from where the witness says that it is.
    fn ask(&mut self, log: &Log, published: &Published, url: &str) -> Result<NoteSignature, String> {
        let failed = |error: LedgerError| error.to_string();
        for _ in 0..2 {
            let old_size = self.seen.get(url).copied().unwrap_or(0);
            let proof = match old_size {
                0 => Vec::new(),
                size => Tree::new(published.size, log.folder()).consistency(size).map_err(failed)?,
            };
            let body = AddCheckpoint { old_size, proof, note: published.note.clone() }.body();
            let answer = self.agent.post(format!("{url}/add-checkpoint")).send(body);
            let mut answer = answer.map_err(|error| error.to_string())?;
            let size = answer.headers().get("content-type").is_some_and(|kind| kind.as_bytes() == SIZE.as_bytes());
            let text = answer.body_mut().with_config().limit(ANSWER_LIMIT_BYTES).read_to_string();
            let text = text.map_err(|error| error.to_string())?;
            match answer.status().as_u16() {
                200 => {
                    self.seen.insert(url.to_owned(), published.size);
                    return NoteSignature::parse(text.trim_end()).map_err(failed);
                }
                409 if size => {
                    let size = text.trim_end().parse().map_err(|_| "its size is no number".to_owned())?;
                    if size > published.size {
                        return Err(format!("it has seen {size} entries of this ledger, which has {}", published.size));
                    }
                    self.seen.insert(url.to_owned(), size);
                }
                status => return Err(format!("{status}: {}", text.trim_end())),
            }
        }
        Err("it answers 409 again and again".to_owned())
    }
}
