//! Writes a site's log: admissions, sessions and the chain of receipts, each naming the one before. A receipt whose write fails
//! leaves no gap: the next one follows the last that is durable.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::entry::{Admission, Entry, Tombstone};
use crate::error::LedgerError;
use crate::hash::Hash;
use crate::key::{FileKey, Signer};
use crate::log::{Log, Ticket, Watch};
use crate::receipt::{Claims, Receipt, receipt_hash};
use crate::session::{SESSION_LEFT_S, SESSION_S, Session};

pub struct Recorder {
    log: Arc<Log>,
    site: String,
    site_key: Arc<dyn Signer>,
    chain: Mutex<Chain>,
    /// Of the running session, so that an admission need not wait for the chain: from and until; both 0 without one.
    covered_s: [AtomicU64; 2],
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
    session: Option<(FileKey, Session, Watch)>,
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
        Ok(Self { log, site: site.to_owned(), site_key, chain: Mutex::new(chain), covered_s: Default::default() })
    }

    /// Lets a request in, if a session key is there that can sign its receipt.
    ///
    /// # Errors
    /// As [`Log::append`]; [`LedgerError::Signer`] while the site's key cannot be reached and is needed: for a new session, or because
    /// the last checkpoint is not signed.
    pub fn admit(&self, admission: Admission) -> Result<Ticket, LedgerError> {
        self.log.signed()?;
        let time_s = admission.time_ms / 1000;
        let [from_s, until_s] = self.covered_s.each_ref().map(|second| second.load(Ordering::Relaxed));
        if time_s < from_s || time_s + SESSION_LEFT_S > until_s {
            self.cover(&mut self.chain(), time_s, SESSION_LEFT_S)?;
        }
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
        let mut chain = self.chain();
        self.cover(&mut chain, claims.time_ms / 1000, 0)?;
        let Some((key, ..)) = &chain.session else { return Err(LedgerError::Stale) };
        let (sequence, previous) = chain.next;
        let receipt = Receipt { site: self.site.clone(), sequence, previous, claims }.sign(key)?;
        // The answer does not wait for it.
        let ticket = self.log.append_lazily(Entry::Receipt(receipt.clone()).to_bytes(), chain.generation)?;
        chain.next = (sequence + 1, receipt_hash(&receipt));
        let next = chain.next;
        chain.in_flight.push_back((ticket.watch(), next));
        Ok(Recorded { receipt, ticket })
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to a session from this second on, and for so many more.
    fn cover(&self, chain: &mut Chain, time_s: u64, left_s: u64) -> Result<(), LedgerError> {
        chain.settle(self.log.generation());
        let covers = |session: &Session| session.covers(time_s) && session.covers(time_s + left_s);
        if chain.session.as_ref().is_none_or(|(_, session, _)| !covers(session)) {
            let (key, session, certificate) = self.begin_session(time_s, chain.generation)?;
            for (second, is) in self.covered_s.iter().zip([session.from_s, session.until_s]) {
                second.store(is, Ordering::Relaxed);
            }
            chain.session = Some((key, session, certificate));
        }
        Ok(())
    }

    fn begin_session(&self, from_s: u64, generation: u64) -> Result<(FileKey, Session, Watch), LedgerError> {
        let key = FileKey::generate()?;
        // The last second belongs to the session.
        let until_s = from_s + SESSION_S - 1;
        let session = Session { site: self.site.clone(), public_key: key.public_key(), from_s, until_s };
        let certificate = session.certify(&*self.site_key)?;
        let ticket = self.log.append_lazily(Entry::Session(certificate).to_bytes(), generation)?;
        Ok((key, session, ticket.watch()))
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
        // A failed write takes everything that was queued with it, so whatever is still in flight is lost, the session's certificate
        // with it if it is not durable yet.
        if generation != self.generation {
            self.generation = generation;
            self.in_flight.clear();
            self.next = self.durable;
            self.session = self.session.take().filter(|(.., certificate)| matches!(certificate.outcome(), Some(Ok(_))));
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
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::log::{Fault, LogSettings};
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
        log.faults[Fault::Write as usize].store(1, Ordering::SeqCst);
        assert!(recorder.record(claims(2)).unwrap().ticket.wait().is_err());
        // The failed write may be noticed only now: ask again.
        let recorded = (0..3).find_map(|_| recorder.record(claims(3)).ok()).unwrap();
        recorded.ticket.wait().unwrap();
        assert_eq!(chain(&log), (3, 6), "its session was durable, and goes on");
        drop((log, recorder));
        let (log, recorder) = open(folder.path());
        recorder.record(claims(4)).unwrap().ticket.wait().unwrap();
        assert_eq!(chain(&log), (4, 7));
    }

    /// A key that can be taken away.
    struct Removable(FileKey, AtomicBool);

    impl Signer for Removable {
        fn public_key(&self) -> [u8; 32] {
            self.0.public_key()
        }

        fn sign(&self, message: &[u8]) -> Result<[u8; 64], LedgerError> {
            match self.1.load(Ordering::SeqCst) {
                true => Err(LedgerError::Signer { reason: "gone".into() }),
                false => self.0.sign(message),
            }
        }
    }

    /// What was admitted gets its receipt; nothing more is admitted until the key is back.
    #[test]
    fn without_the_sites_key_nobody_is_let_in_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let key = Arc::new(Removable(FileKey::from_seed(&[1; 32]).unwrap(), false.into()));
        let settings = LogSettings { checkpoint_every: std::time::Duration::from_secs(3600), ..LogSettings::default() };
        let log = Log::open(folder.path(), "a.example/ledger", key.clone(), Arc::new(|| 1_800_000_000), settings);
        let log = Arc::new(log.unwrap());
        let recorder = Recorder::new(Arc::clone(&log), "a.example", key.clone()).unwrap();
        let admission = |later_s: u64| Admission {
            request_id: [7; 16],
            time_ms: claims(1).time_ms + later_s * 1000,
            grant: String::new(),
            policy_epoch: 1,
            decision: Hash([1; 32]),
        };
        recorder.admit(admission(0)).unwrap().wait().unwrap();
        key.1.store(true, Ordering::SeqCst);
        // Nobody has asked the key yet; its session has 10 minutes left for receipts, and then none.
        recorder.admit(admission(SESSION_S - SESSION_LEFT_S - 1)).unwrap().wait().unwrap();
        let size = log.size();
        for later_s in [SESSION_S - SESSION_LEFT_S, SESSION_S] {
            assert!(matches!(recorder.admit(admission(later_s)), Err(LedgerError::Signer { .. })));
        }
        assert!(matches!(log.publish(), Err(LedgerError::Signer { .. })));
        assert!(matches!(log.health().signing, Some(LedgerError::Signer { .. })));
        assert!(matches!(recorder.admit(admission(1)), Err(LedgerError::Signer { .. })));
        assert_eq!(log.size(), size);
        recorder.record(claims(1)).unwrap().ticket.wait().unwrap();
        key.1.store(false, Ordering::SeqCst);
        log.publish().unwrap();
        recorder.admit(admission(SESSION_S)).unwrap().wait().unwrap();
        recorder.record(claims(2)).unwrap().ticket.wait().unwrap();
        log.publish().unwrap();
        let kinds = (0..log.size()).map(|index| log.entry(index).unwrap()[0]).collect::<Vec<_>>();
        assert_eq!(kinds, [1, 2, 2, 3, 1, 2, 1, 3]);
    }
}
