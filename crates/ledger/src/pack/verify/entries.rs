//! Reads entries in their order: sessions are certified by the site, receipts are of a session before them and form one chain,
//! and no request was served that was not admitted.

use std::collections::{HashMap, HashSet};

use super::Report;
use crate::entry::Entry;
use crate::hash::Hash;
use crate::note::VerifierKey;
use crate::receipt::{Receipt, receipt_hash};
use crate::session::Session;

pub(super) struct Story<'a> {
    site: &'a VerifierKey,
    sessions: HashMap<Vec<u8>, Session>,
    admitted: HashSet<[u8; 16]>,
    /// Sequence and previous hash that the next receipt must have; none after an entry that could not be read.
    next: Option<(u64, Hash)>,
    latest_ms: u64,
    /// Were all entries so far readable? If not, what is missed may have stood in one of the others.
    whole: bool,
}

impl<'a> Story<'a> {
    pub(super) fn new(site: &'a VerifierKey) -> Self {
        let next = Some((0, Hash([0; 32])));
        Self { site, sessions: HashMap::new(), admitted: HashSet::new(), next, latest_ms: 0, whole: true }
    }

    /// An entry is missing here: what builds on it cannot be judged.
    pub(super) fn interrupted(&mut self) {
        self.next = None;
        self.whole = false;
    }

    pub(super) fn tell(&mut self, file: &str, index: u64, offset: u64, bytes: &[u8], report: &mut Report) {
        if let Err(what) = self.read(bytes, report) {
            report.fail(file, Some(index), Some(offset), what);
        }
    }

    fn read(&mut self, bytes: &[u8], report: &mut Report) -> Result<(), String> {
        match Entry::from_bytes(bytes).map_err(|error| error.to_string())? {
            Entry::Session(certificate) => {
                let session =
                    Session::verified(&certificate, &self.site.public_key).map_err(|error| error.to_string())?;
                if session.site != self.site.name {
                    return Err(format!("the session is of the site `{}`", session.site));
                }
                self.sessions.insert(session.key_id(), session);
                report.sessions += 1;
            }
            Entry::Admission(admission) => {
                self.pass(admission.time_ms, report);
                self.admitted.insert(admission.request_id);
                report.admissions += 1;
            }
            Entry::Receipt(bytes) => {
                report.receipts += 1;
                return self.receipt(&bytes, report);
            }
            Entry::Tombstone(_) => report.tombstones += 1,
            Entry::Denial(_) => report.denials += 1,
            Entry::DenialCount(count) => report.denials_counted = report.denials_counted.saturating_add(count.denials),
        }
        Ok(())
    }

    fn pass(&mut self, time_ms: u64, report: &mut Report) {
        report.times_back_ms = report.times_back_ms.max(self.latest_ms.saturating_sub(time_ms));
        self.latest_ms = self.latest_ms.max(time_ms);
    }

    fn receipt(&mut self, bytes: &[u8], report: &mut Report) -> Result<(), String> {
        let expected = self.next.take();
        let id = Receipt::key_id(bytes).map_err(|error| error.to_string())?;
        let Some(session) = self.sessions.get(&id) else {
            return if self.whole { Err("its session is not certified before it".to_owned()) } else { Ok(()) };
        };
        let receipt = Receipt::verified(bytes, session).map_err(|error| error.to_string())?;
        self.next = Some((receipt.sequence + 1, receipt_hash(bytes)));
        self.pass(receipt.claims.time_ms, report);
        if let Some((sequence, previous)) = expected
            && (receipt.sequence, receipt.previous) != (sequence, previous)
        {
            return Err(format!(
                "receipt {} does not follow the one before; {sequence} was expected",
                receipt.sequence
            ));
        }
        if self.whole && !self.admitted.contains(&receipt.claims.request_id) {
            return Err("its request was never admitted".to_owned());
        }
        Ok(())
    }
}
