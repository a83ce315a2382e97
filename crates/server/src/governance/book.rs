//! What a site writes down: admissions and receipts in its ledger, salts and sums in its meter. What a process that was killed left
//! open is settled at the next start, by the receipts that stand in the ledger.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falaj_govern::{Action, Answer, PolicyTexts, Record, Target};
use falaj_ledger::{
    Checkpoint, Claims, Clock, EnergyGrade, Entry, FileKey, Hash, LedgerError, Log, LogSettings, Receipt, Recorder,
    Signer, TILE_WIDTH, Ticket, Tile, Tombstone, VerifierKey,
};
use falaj_store::{Meter, MeterSettings, MeteredEnergy, Opened, Price, Settled};

use super::GovernanceError;
use crate::ids;

/// The ledger of a site, open for writing. One process has it.
pub struct Book {
    pub(super) recorder: Recorder,
    pub(super) meter: Arc<Meter>,
    pub(super) log: Arc<Log>,
    /// What signs its checkpoints.
    key: VerifierKey,
    /// Digests of decisions that are kept already.
    kept: Mutex<HashSet<[u8; 32]>>,
}

struct Whose {
    organisation: Arc<str>,
    workspace: Arc<str>,
    key: Arc<str>,
    model: Arc<str>,
}

/// Beyond it the set is begun anew: then a decision is looked for on the disk again.
const MOST_KEPT: usize = 1 << 20;

impl Book {
    /// Opens or makes `ledger` and `usage.db` in a folder, with the site's key, which is made where there is none.
    ///
    /// # Errors
    /// A key file that is open to others or damaged; a ledger that does not open: its message says what is wrong.
    pub async fn open(folder: &Path, key: &Path, site: &str) -> Result<Self, GovernanceError> {
        let key = if key.exists() { FileKey::read(key)? } else { FileKey::create(key)? };
        Self::with(folder, Arc::new(key), site).await
    }

    /// # Errors
    /// As [`Book::open`].
    pub async fn with(folder: &Path, key: Arc<dyn Signer>, site: &str) -> Result<Self, GovernanceError> {
        let [own, _] = Checkpoint::keys(&origin(site), key.public_key())?;
        let clock: Clock = Arc::new(ids::now_s);
        let log = Log::open(&folder.join("ledger"), &origin(site), Arc::clone(&key), clock, LogSettings::default())?;
        let log = Arc::new(log);
        crate::clock::not_before(log.published().map_or(0, |published| published.time_s * 1000));
        let recorder = Recorder::new(Arc::clone(&log), site, key)?;
        let meter = Arc::new(Meter::start(folder, MeterSettings::default()).await?);
        Ok(Self { recorder, meter, log, key: own, kept: Mutex::default() })
    }

    /// Requests that ended with their process: what has a receipt in the ledger is charged by it, what has none is not charged.
    pub(super) async fn settle_what_was_left(&self, prices: &[Price]) -> Result<(), GovernanceError> {
        let mut left: HashMap<[u8; 16], Opened> =
            self.meter.unsettled().iter().map(|it| (it.request_id, it.clone())).collect();
        for opened in self.not_written(&left).await? {
            drop(self.meter.open(opened.clone())?);
            left.insert(opened.request_id, opened);
        }
        // From here on the meter notes each request before the ledger does.
        self.meter.cover(self.log.size())?;
        let Some(oldest_ms) = left.values().map(|opened| opened.time_ms).min() else { return Ok(()) };
        let mut settled = Vec::new();
        let size = self.log.published().map_or(0, |published| published.size);
        // From the newest entry back, as long as they are younger than the oldest that is missing.
        for index in (0..size.div_ceil(TILE_WIDTH)).rev() {
            let Some(tile) = Tile::within(0, index, size).filter(|_| !left.is_empty()) else { break };
            let mut newest_ms = 0;
            for (at, entry) in (index * TILE_WIDTH..).zip(self.log.folder().bundle(tile)?) {
                match Entry::from_bytes(&entry)? {
                    Entry::Receipt(receipt) => {
                        let claims = Receipt::unverified(&receipt)?.claims;
                        newest_ms = newest_ms.max(claims.time_ms);
                        if let Some(opened) = left.remove(&claims.request_id) {
                            let tokens = (claims.prompt_tokens, claims.completion_tokens);
                            let price = prices.iter().find(|price| price.id == *opened.model);
                            let money = money(price, tokens);
                            settled.push(Settled { entry: at, ..settlement(&claims, 0, money, receipt) });
                        }
                    }
                    Entry::Admission(admission) => newest_ms = newest_ms.max(admission.time_ms),
                    Entry::Session(_) | Entry::Tombstone(_) | Entry::Denial(_) | Entry::DenialCount(_) => {}
                }
            }
            if newest_ms != 0 && newest_ms.saturating_add(CLOCK_SLACK_MS) < oldest_ms {
                break;
            }
        }
        tracing::warn!(receipts = settled.len(), without = left.len(), "settled what the last run left open");
        settled.extend(left.into_keys().map(|request_id| Settled { request_id, ..Settled::default() }));
        for settled in settled {
            drop(self.meter.settle(settled)?);
        }
        Ok(self.meter.flush().await?)
    }

    /// Requests that the ledger let in and that the meter had not written yet.
    async fn not_written(&self, unsettled: &HashMap<[u8; 16], Opened>) -> Result<Vec<Opened>, GovernanceError> {
        let Some(covered) = self.meter.covered() else { return Ok(Vec::new()) };
        let (mut found, mut actors) = (Vec::new(), HashMap::new());
        let size = self.log.published().map_or(0, |published| published.size);
        for index in covered / TILE_WIDTH..size.div_ceil(TILE_WIDTH) {
            let Some(tile) = Tile::within(0, index, size) else { break };
            let entries = (index * TILE_WIDTH..).zip(self.log.folder().bundle(tile)?);
            for (_, entry) in entries.filter(|(at, _)| *at >= covered) {
                let Entry::Admission(admission) = Entry::from_bytes(&entry)? else { continue };
                let whose = match actors.entry(admission.decision.0) {
                    Vacant(place) => place.insert(self.whose(&admission.decision)?),
                    Occupied(place) => place.into_mut(),
                };
                let Some(whose) = whose.as_ref().filter(|_| !unsettled.contains_key(&admission.request_id)) else {
                    continue;
                };
                if self.meter.receipt(&whose.workspace, &admission.request_id).await.is_ok() {
                    continue;
                }
                let salts = self.meter.salts(&admission.request_id);
                found.push(Opened {
                    request_id: admission.request_id,
                    organisation: Arc::clone(&whose.organisation),
                    workspace: Arc::clone(&whose.workspace),
                    key: Arc::clone(&whose.key),
                    time_ms: admission.time_ms,
                    model: Arc::clone(&whose.model),
                    decision: admission.decision.0,
                    input_salt: Some(salts.input),
                    output_salt: Some(salts.output),
                });
            }
        }
        Ok(found)
    }

    /// Who asked for which model, by the record of the decision; `None` for what is not metered.
    fn whose(&self, decision: &Hash) -> Result<Option<Whose>, LedgerError> {
        let Some(record) = self.log.folder().record(decision)? else { return Ok(None) };
        let reason = "a decision that the ledger names cannot be read";
        let record: Record =
            serde_json::from_slice(&record).map_err(|_| LedgerError::BadRecord { what: "decision", reason })?;
        let Target::Artifact(model) = record.question.target else { return Ok(None) };
        let workspace = record.world.actors.get(&*record.question.actor).map(|actor| actor.workspace.as_str());
        let organisation = workspace.and_then(|id| record.world.workspaces.get(id)).map(|it| it.organisation.as_str());
        let place = workspace.zip(organisation).filter(|_| record.question.action == Action::Infer);
        Ok(place.map(|(workspace, organisation)| Whose {
            organisation: organisation.into(),
            workspace: workspace.into(),
            key: Arc::clone(&record.question.actor),
            model,
        }))
    }

    /// # Errors
    /// As [`Recorder::bury`].
    pub(crate) fn bury(&self, tombstone: Tombstone) -> Result<Ticket, LedgerError> {
        self.recorder.bury(tombstone)
    }

    /// Forgets a request that the ledger did not take: nobody gets anything of it.
    pub(super) fn withdraw(&self, request_id: [u8; 16]) {
        if let Err(error) = self.meter.withdraw(request_id) {
            tracing::error!(%error, "a request that was refused stays open until the next start");
        }
    }

    /// The usage of this site.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Keeps what a decision was made from, so that it can be made again. Once for each: the gate remembers its answers.
    pub(super) fn keep(&self, answer: &Answer) -> Result<(), LedgerError> {
        let digest = *answer.digest().as_bytes();
        // Held while it is written: of many that come with the same decision one writes, and the others find it there.
        let mut kept = self.kept();
        if kept.contains(&digest) {
            return Ok(());
        }
        self.log.folder().keep_record(&answer.record().to_json())?;
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(digest);
        Ok(())
    }

    /// Keeps the site's own policies, which decisions name by the digest of the whole set.
    pub(super) fn keep_policies(&self, own: &[&str]) -> Result<(), LedgerError> {
        // Strings always serialise.
        let text = serde_json::to_vec(&PolicyTexts { policies: own.to_vec() }).unwrap_or_default();
        self.log.folder().keep_record(&text).map(|_| ())
    }

    fn kept(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }
}

/// What a receipt says of its request's cost. `money`: millionths; prices are not in receipts.
pub(super) fn settlement(claims: &Claims, cached_tokens: u64, money: u64, receipt: Vec<u8>) -> Settled {
    let energy = claims.energy.map(|energy| MeteredEnergy {
        uj: energy.uj,
        grade: match energy.grade {
            EnergyGrade::A => 'A',
            EnergyGrade::B => 'B',
            EnergyGrade::C => 'C',
            EnergyGrade::D => 'D',
            EnergyGrade::E => 'E',
        },
    });
    Settled {
        request_id: claims.request_id,
        prompt_tokens: claims.prompt_tokens,
        completion_tokens: claims.completion_tokens,
        cached_tokens,
        money,
        energy,
        receipt,
        entry: 0,
    }
}

/// In millionths; 0 where there is no price. `tokens`: of the prompt, and of what was generated.
pub(super) fn money(price: Option<&Price>, tokens: (u64, u64)) -> u64 {
    let Some(price) = price else { return 0 };
    let cost = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
    let millionths = (cost(tokens.0, price.prompt) + cost(tokens.1, price.completion)).div_ceil(1_000_000);
    u64::try_from(millionths).unwrap_or(u64::MAX)
}

/// Clocks are set back.
const CLOCK_SLACK_MS: u64 = 3_600_000;

/// What a site's checkpoints call its ledger.
pub fn origin(site: &str) -> String {
    format!("{site}/ledger")
}
