//! Writes a site's log: admissions, sessions and the chain of receipts, each naming the one before. A receipt whose write fails
//! leaves no gap: the next one follows the last that is durable.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::entry::{Admission, Entry, Tombstone};
use crate::error::LedgerError;
use crate::hash::Hash;
use crate::key::{FileKey, Signer};
use crate::log::{Log, Ticket, Watch};
use crate::receipt::{Claims, Receipt, receipt_hash};
use crate::session::{SESSION_S, Session};

pub struct Recorder {
    log: Arc<Log>,
    site: String,
    site_key: Arc<dyn Signer>,
    chain: Mutex<Chain>,
}

/// A signed receipt, and when it is in the log.
#[derive(Debug)]
pub struct Recorded {
    pub receipt: Vec<u8>,
    pub ticket: Ticket,
}

struct Chain {
    /// Sequence and previous hash of the next receipt.
    next: (u64, Hash),
    /// The same, as of the last receipt that is known to be durable.
    durable: (u64, Hash),
    in_flight: VecDeque<(Watch, (u64, Hash))>,
    generation: u64,
    session: Option<(FileKey, Session)>,
}

impl Recorder {
    /// Goes on behind the last receipt of the log, and begins a new session.
    ///
    /// # Errors
    /// A log whose entries cannot be read.
    pub fn new(log: Arc<Log>, site: &str, site_key: Arc<dyn Signer>) -> Result<Self, LedgerError> {
        let next = after_last_receipt(&log)?;
        let generation = log.generation();
        let chain = Chain { next, durable: next, in_flight: VecDeque::new(), generation, session: None };
        Ok(Self { log, site: site.to_owned(), site_key, chain: Mutex::new(chain) })
    }

    /// # Errors
    /// As [`Log::append`].
    pub fn admit(&self, admission: Admission) -> Result<Ticket, LedgerError> {
        self.log.append(Entry::Admission(admission).to_bytes())
    }

    /// # Errors
    /// As [`Log::append`].
    pub fn bury(&self, tombstone: Tombstone) -> Result<Ticket, LedgerError> {
        self.log.append(Entry::Tombstone(tombstone).to_bytes())
    }

    /// Signs and appends the receipt of a request.
    ///
    /// # Errors
    /// As [`Log::append`]; keys that cannot be reached. The chain is then as if nothing had been asked.
    pub fn record(&self, claims: Claims) -> Result<Recorded, LedgerError> {
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        chain.settle(self.log.generation());
        let time_s = claims.time_ms / 1000;
        if chain.session.as_ref().is_none_or(|(_, session)| !session.covers(time_s)) {
            chain.session = Some(self.begin_session(time_s, chain.generation)?);
        }
        let Some((key, _)) = &chain.session else { return Err(LedgerError::Stale) };
        let (sequence, previous) = chain.next;
        let receipt = Receipt { site: self.site.clone(), sequence, previous, claims }.sign(key)?;
        let ticket = self.log.append_after(Entry::Receipt(receipt.clone()).to_bytes(), chain.generation)?;
        chain.next = (sequence + 1, receipt_hash(&receipt));
        let next = chain.next;
        chain.in_flight.push_back((ticket.watch(), next));
        Ok(Recorded { receipt, ticket })
    }

    fn begin_session(&self, from_s: u64, generation: u64) -> Result<(FileKey, Session), LedgerError> {
        let key = FileKey::generate()?;
        // The last second belongs to the session.
        let until_s = from_s + SESSION_S - 1;
        let session = Session { site: self.site.clone(), public_key: key.public_key(), from_s, until_s };
        let certificate = session.certify(&*self.site_key)?;
        self.log.append_after(Entry::Session(certificate).to_bytes(), generation)?;
        Ok((key, session))
    }
}

impl Chain {
    /// Takes note of what became durable, and after a failed write begins again behind it.
    fn settle(&mut self, generation: u64) {
        while let Some((watch, next)) = self.in_flight.front()
            && matches!(watch.outcome(), Some(Ok(_)))
        {
            self.durable = *next;
            self.in_flight.pop_front();
        }
        // A failed write takes everything that was queued with it, so whatever is still in flight is lost, and so may be the
        // session's certificate.
        if generation != self.generation {
            self.generation = generation;
            self.in_flight.clear();
            self.next = self.durable;
            self.session = None;
        }
    }
}

/// Sequence and hash that the next receipt has, from the newest receipt in the log.
fn after_last_receipt(log: &Log) -> Result<(u64, Hash), LedgerError> {
    log.publish()?;
    for index in (0..log.published().map_or(0, |published| published.size)).rev() {
        if let Entry::Receipt(bytes) = Entry::from_bytes(&log.entry(index)?)? {
            return Ok((Receipt::unverified(&bytes)?.sequence + 1, receipt_hash(&bytes)));
        }
    }
    Ok((0, Hash([0; 32])))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::log::LogSettings;
    use crate::receipt::tests::claims;

    fn open(folder: &std::path::Path) -> (Arc<Log>, Recorder) {
        let key = Arc::new(FileKey::from_seed(&[1; 32]).unwrap());
        let log =
            Log::open(folder, "a.example/ledger", key.clone(), Arc::new(|| 1_800_000_000), LogSettings::default());
        let log = Arc::new(log.unwrap());
        (Arc::clone(&log), Recorder::new(log, "a.example", key).unwrap())
    }

    /// All receipts of the log form one chain, each under a session that stands before it. Gives how many of each.
    fn chain(log: &Log) -> (usize, usize) {
        let key = FileKey::from_seed(&[1; 32]).unwrap().public_key();
        let (mut sessions, mut next) = (Vec::<Session>::new(), (0, Hash([0; 32])));
        log.publish().unwrap();
        for index in 0..log.size() {
            match Entry::from_bytes(&log.entry(index).unwrap()).unwrap() {
                Entry::Session(certificate) => sessions.push(Session::verified(&certificate, &key).unwrap()),
                Entry::Receipt(bytes) => {
                    let id = Receipt::key_id(&bytes).unwrap();
                    let session = sessions.iter().find(|session| session.key_id() == id).unwrap();
                    let receipt = Receipt::verified(&bytes, session).unwrap();
                    assert_eq!((receipt.sequence, receipt.previous), next);
                    next = (receipt.sequence + 1, receipt_hash(&bytes));
                }
                other => panic!("{other:?}"),
            }
        }
        (sessions.len(), next.0 as usize)
    }

    #[test]
    fn the_chain_has_no_gap_over_hours_failures_and_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let (log, recorder) = open(folder.path());
        for _ in 0..3 {
            recorder.record(claims(1)).unwrap();
        }
        // The next hour, and back: each needs a session of its own.
        let later = Claims { time_ms: claims(1).time_ms + 3_600_000, ..claims(1) };
        recorder.record(later).unwrap();
        recorder.record(claims(1)).unwrap().ticket.wait().unwrap();
        assert_eq!(chain(&log), (3, 5));
        log.faults.store(1, Ordering::SeqCst);
        assert!(recorder.record(claims(2)).unwrap().ticket.wait().is_err());
        // The failed write may be noticed only now: ask again.
        let recorded = (0..3).find_map(|_| recorder.record(claims(3)).ok()).unwrap();
        recorded.ticket.wait().unwrap();
        assert_eq!(chain(&log), (4, 6));
        drop((log, recorder));
        let (log, recorder) = open(folder.path());
        recorder.record(claims(4)).unwrap().ticket.wait().unwrap();
        assert_eq!(chain(&log), (5, 7));
    }
}
