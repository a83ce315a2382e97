//! One request that the gate let in: noted in the ledger before its answer leaves, and accounted for by a receipt however it ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use falaj_artifact::Hasher;
use falaj_govern::{Permit, Target};
use falaj_ledger::{Admission, Claims, Energy, Hash, Sampling, Ticket, Written, commitment};
use falaj_store::{Amounts, Opened, Reservation, Salts};

use super::account::Account;
use super::{Governance, class_word};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::ids::now_ms;
use crate::registry::Identity;

/// A permit, whose it is and what it was asked with.
pub(crate) struct Passage {
    pub caller: Caller,
    pub permit: Permit,
    /// SHA-256 of the request's body.
    pub input: [u8; 32],
}

/// What runs.
pub(crate) struct Running {
    pub identity: Identity,
    pub seed: u64,
    pub sampling: Sampling,
    pub prompt_tokens: u64,
    /// Most that may be generated.
    pub completion_tokens: u64,
    /// What that may take, in microjoules; 0 where nobody knows.
    pub energy_uj: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Of the prompt's.
    pub cached_tokens: u64,
    pub energy: Option<Energy>,
}

/// Between admission and receipt. [`Admitted::finish`] ends it; dropped, it is settled by what was said with [`Admitted::so_far`].
pub(crate) struct Admitted {
    governance: Arc<Governance>,
    passage: Passage,
    running: Running,
    request_id: [u8; 16],
    noted: Option<Ticket>,
    reservation: Option<Reservation>,
    salts: Salts,
    output: Hasher,
    outcome: Outcome,
    finished: bool,
}

impl Governance {
    /// Notes that the request is let in. Does not wait: [`Admitted::durable`] does.
    ///
    /// # Errors
    /// A ledger that cannot take more now.
    pub(crate) fn admit(self: &Arc<Self>, passage: Passage, running: Running) -> Result<Admitted, ApiError> {
        let request_id = passage.caller.request;
        let tokens = running.prompt_tokens.saturating_add(running.completion_tokens);
        let model = model_of(&passage.permit);
        let money = self.money(&model, (running.prompt_tokens, running.completion_tokens));
        let reservation =
            self.reserve(&passage.caller, Amounts { requests: 1, tokens, money, joules: running.energy_uj })?;
        let (mut salts, mut noted) = (NO_SALTS, None);
        if let Some(book) = &self.book {
            book.keep(&passage.permit)?;
            // Before the admission is appended, so that who reads the ledger from there on finds it.
            salts = book.meter.begin(opened(&passage, model), || book.log.size())?;
            let admitted = book.recorder.admit(admission(&passage.permit, request_id));
            noted = Some(admitted.inspect_err(|_| book.withdraw(request_id))?);
        }
        let outcome = Outcome { prompt_tokens: running.prompt_tokens, ..Outcome::default() };
        Ok(Admitted {
            governance: Arc::clone(self),
            passage,
            running,
            request_id,
            noted,
            reservation: Some(reservation),
            salts,
            output: Hasher::default(),
            outcome,
            finished: false,
        })
    }

    /// Notes an action that is no generation, and waits until the note is durable.
    ///
    /// # Errors
    /// As [`Admitted::durable`].
    pub(crate) async fn note(&self, caller: &Caller, permit: &Permit) -> Result<(), ApiError> {
        let Some(book) = &self.book else { return Ok(()) };
        book.keep(permit)?;
        book.recorder.admit(admission(permit, caller.request))?.await?;
        Ok(())
    }
}

fn admission(permit: &Permit, request_id: [u8; 16]) -> Admission {
    Admission {
        request_id,
        time_ms: now_ms(),
        grant: permit.grant().unwrap_or_default().to_owned(),
        policy_epoch: permit.epoch().world,
        decision: Hash(*permit.digest().as_bytes()),
    }
}

impl Admitted {
    /// To be awaited before the first byte of an answer leaves.
    ///
    /// # Errors
    /// A ledger that could not be written: then nothing may leave.
    pub(crate) async fn durable(&mut self) -> Result<(), ApiError> {
        if let Some(noted) = self.noted.take()
            && let Err(error) = noted.await
        {
            self.refuse();
            return Err(error.into());
        }
        Ok(())
    }

    /// Nobody gets anything of it: nothing is charged, and there is no receipt.
    fn refuse(&mut self) {
        self.finished = true;
        self.reservation = None;
        if let Some(book) = &self.governance.book {
            book.withdraw(self.request_id);
        }
    }

    /// A part of what is answered, in its order.
    pub(crate) fn output(&mut self, bytes: &[u8]) {
        self.output.update(bytes);
    }

    /// What the request has come to until now: where it is broken off, this is what counts.
    pub(crate) fn so_far(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Its receipt; none where nothing is written down.
    pub(crate) fn finish(mut self, outcome: Outcome) -> Option<Signed> {
        self.outcome = outcome;
        self.settle()
    }

    fn settle(&mut self) -> Option<Signed> {
        self.finished = true;
        let governance = Arc::clone(&self.governance);
        let Outcome { prompt_tokens, completion_tokens, cached_tokens, energy } = self.outcome;
        let money = governance.money(&model_of(&self.passage.permit), (prompt_tokens, completion_tokens));
        if let Some(reservation) = self.reservation.take() {
            let joules = energy.map_or(0, |energy| energy.uj);
            let tokens = prompt_tokens.saturating_add(completion_tokens);
            reservation.settle(Amounts { requests: 1, tokens, money, joules });
        }
        let book = governance.book.as_ref()?;
        let claims = self.claims(&governance);
        let recorded = book.recorder.record(claims.clone());
        let account = Account { claims, cached_tokens, money };
        let signed = recorded.as_ref().ok().map(|recorded| Signed {
            text: URL_SAFE_NO_PAD.encode(&recorded.receipt),
            written: recorded.ticket.written(),
        });
        account.close(&governance, recorded);
        signed
    }

    fn claims(&mut self, governance: &Governance) -> Claims {
        let Passage { caller, permit, input } = &self.passage;
        let (site, running, identity) = (governance.site(), &self.running, &self.running.identity);
        let output = std::mem::take(&mut self.output).finish();
        Claims {
            request_id: self.request_id,
            time_ms: now_ms(),
            model: Hash(identity.model),
            adapter: identity.adapter.map(Hash),
            numerics: identity.numerics.to_string(),
            grant: permit.grant().unwrap_or_default().to_owned(),
            policy_epoch: permit.epoch().world,
            decision: Hash(*permit.digest().as_bytes()),
            site_country: site.country.clone(),
            operator_country: site.operator_country.clone(),
            purpose: caller.purpose.to_string(),
            data_class: class_word(caller.class).to_owned(),
            input: commitment(&self.salts.input, input),
            output: commitment(&self.salts.output, output.as_bytes()),
            prompt_tokens: self.outcome.prompt_tokens,
            completion_tokens: self.outcome.completion_tokens,
            tokenizer: Hash(identity.tokenizer),
            seed: running.seed,
            sampling: running.sampling,
            energy: self.outcome.energy,
        }
    }
}

/// A receipt on its way into the ledger. Nobody gets it before it is written: after a crash its number would be another's.
pub(crate) struct Signed {
    /// In Base64 without padding and safe in URLs.
    text: String,
    written: Written,
}

impl Signed {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The receipt, once it may leave; none if it could not be written.
    pub(crate) async fn ready(mut self) -> Option<String> {
        std::future::poll_fn(|context| self.poll(context)).await.then_some(self.text)
    }

    /// Whether it was written, once that is known.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.written).poll(context).map(|written| written.is_ok())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.finished {
            self.settle();
        }
    }
}

/// The artifact that the gate permitted.
fn model_of(permit: &Permit) -> Arc<str> {
    match &permit.question().target {
        Target::Artifact(model) => Arc::clone(model),
        _ => "".into(),
    }
}

fn opened(passage: &Passage, model: Arc<str>) -> Opened {
    let Passage { caller, permit, .. } = passage;
    Opened {
        request_id: caller.request,
        organisation: Arc::clone(&caller.organisation),
        workspace: Arc::clone(&caller.workspace),
        key: Arc::clone(&caller.id),
        time_ms: now_ms(),
        model,
        decision: *permit.digest().as_bytes(),
        input_salt: None,
        output_salt: None,
    }
}

/// Where nothing is written down there is nothing to open a commitment for.
const NO_SALTS: Salts = Salts { input: [0; 32], output: [0; 32] };
