//! From a prepared job to pieces of text: submits to the engine, decodes tokens, finds stop strings and tool calls,
//! counts, and gives up when time is over. Dropping a [`Generation`] cancels what still runs, and settles it by what came.

mod lane;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use falaj_engine::{Choice, Event, Request, Sampling};
use falaj_text::Matcher;
use serde::Serialize;

pub(crate) use lane::{Finish, Logprob, Piece};

use crate::app::App;
use crate::error::ApiError;
use crate::governance::{Admitted, Outcome, Passage, Running, Signed};
use crate::registry::Loan;
use lane::Lane;

/// Everything the engine and the decoder need; made by `convert.rs`.
pub(crate) struct Job {
    pub served: Arc<Loan>,
    /// Each is answered `n` times.
    pub prompts: Vec<Vec<u32>>,
    pub n: u32,
    pub max_tokens: Option<u32>,
    /// Whether the model's end tokens end an answer; else they are tokens like others.
    pub ends: bool,
    pub min_tokens: u32,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    /// Empty, or one per choice of the one prompt.
    pub constraints: Vec<Matcher>,
    pub logprobs: Option<u8>,
    pub decode: Decode,
    /// Whose it is, and the gate's permit.
    pub passage: Passage,
    /// When the request came: what clients wait for begins there.
    pub arrived: Instant,
    /// CPU time that it took until now: of the engine, for its prompts' scores.
    pub spent_ns: u64,
}

/// How tokens become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decode {
    /// As they are.
    Plain,
    /// With the chat format's tool calls, if any may come. `continuing`: the text goes on from a prefix.
    Chat { tools: bool, continuing: bool },
}

/// Answers in the making, one lane per choice.
pub(crate) struct Generation {
    app: App,
    lanes: Vec<Lane>,
    ready: VecDeque<(u32, Piece)>,
    /// Where the next poll begins, so that no choice starves another.
    turn: usize,
    started: Instant,
    deadline: tokio::time::Instant,
    /// Keeps the model in memory; dropped after the lanes, which cancel what still runs in it.
    loan: Arc<Loan>,
    /// CPU time from before its lanes.
    spent_ns: u64,
    prompt_tokens: u64,
    first_token_seen: bool,
    failed: bool,
    /// `None` once its receipt is written.
    admitted: Option<Admitted>,
    /// What has come of each choice, for the receipt.
    wholes: Vec<Whole>,
}

/// Everything that came, and the receipt for it.
pub(crate) struct Collected {
    pub wholes: Vec<Whole>,
    pub counts: Counts,
    pub receipt: Option<String>,
}

/// Token counts of all choices together; a prompt counts once however many choices it has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub prompt: u64,
    pub cached: u64,
    pub generated: u64,
}

/// One finished choice.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub text: String,
    pub thinking: String,
    pub calls: Vec<Call>,
    pub logprobs: Vec<Logprob>,
    pub finish: Finish,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

impl Generation {
    /// Submits every choice; all or none are accepted. Comes back when the ledger has noted it: not before may a token leave.
    pub(crate) async fn start(app: &App, mut job: Job) -> Result<Self, ApiError> {
        let context_tokens = job.served.engine.context_tokens();
        let mut constraints = std::mem::take(&mut job.constraints).into_iter();
        let mut lanes = Vec::new();
        for prompt in &job.prompts {
            let room = context_tokens.saturating_sub(prompt.len());
            // No room at all is refused by the engine, which knows how many tokens that would need.
            let room = u32::try_from(room).unwrap_or(u32::MAX).max(1);
            let mut grammars = Vec::new();
            let mut choices = (0..job.n).map(|choice| {
                let (constraint, failed) = constraints.next().map(lane::constraint).unzip();
                grammars.push(failed);
                Choice { seed: job.sampling.seed.wrapping_add(u64::from(choice)), constraint }
            });
            let Some(first) = choices.next() else { continue };
            let more = choices.collect();
            let request = Request {
                prompt: prompt.clone(),
                max_tokens: job.max_tokens.unwrap_or(room).min(room),
                sampling: job.sampling.clone(),
                stop_tokens: if job.ends { job.served.text.tokenizer.eos_tokens() } else { Vec::new() },
                min_tokens: job.min_tokens,
                constraint: first.constraint,
                tenant: job.passage.caller.tenant,
                cache_salt: job.passage.caller.cache_salt,
                adapter: job.served.adapter.clone(),
                logprobs: job.logprobs,
            };
            for (stream, failed) in job.served.engine.submit_choices(request, more)?.into_iter().zip(grammars) {
                lanes.push(Lane::new(&job, stream, job.max_tokens.is_none_or(|most| most > room), failed));
            }
        }
        let prompt_tokens = job.prompts.iter().map(|prompt| prompt.len() as u64).sum();
        let most = job.max_tokens.map_or(context_tokens as u64, u64::from).saturating_mul(lanes.len() as u64);
        let running = Running {
            identity: job.served.identity.clone(),
            seed: job.sampling.seed,
            sampling: receipt_sampling(&job.sampling),
            prompt_tokens,
            completion_tokens: most,
            energy_uj: app.power.expect(&job.served.facts.id, prompt_tokens.saturating_add(most)),
        };
        // While the engine reads the prompt already; a request that is not noted takes it back.
        let mut admitted = app.governance.admit(job.passage, running)?;
        admitted.durable().await?;
        app.metrics.prompt_tokens.add(prompt_tokens);
        Ok(Self {
            admitted: Some(admitted),
            wholes: lanes.iter().map(|_| Whole::default()).collect(),
            app: app.clone(),
            lanes,
            ready: VecDeque::new(),
            turn: 0,
            started: job.arrived,
            deadline: app.deadline(job.arrived),
            loan: job.served,
            spent_ns: job.spent_ns,
            prompt_tokens,
            first_token_seen: false,
            failed: false,
        })
    }

    /// The next piece of any choice; `None` when all have ended. Cancel-safe: a dropped wait loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Result<(u32, Piece), ApiError>> {
        loop {
            if let Some((choice, piece)) = self.ready.pop_front() {
                if let Some(whole) = self.wholes.get_mut(choice as usize) {
                    whole.add(&piece);
                }
                return Some(Ok((choice, piece)));
            }
            if self.failed || self.lanes.iter().all(Lane::is_done) {
                return None;
            }
            let received = tokio::time::timeout_at(self.deadline, self.receive()).await;
            let outcome = match received {
                Ok((lane, event)) => self.take(lane, event),
                Err(_) => Err(ApiError::TookTooLong { timeout_ms: self.app.settings.request_timeout_ms }),
            };
            if let Err(error) = outcome {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }

    /// The next event of whichever lane has one.
    async fn receive(&mut self) -> (usize, Option<Event>) {
        let (lanes, turn) = (&mut self.lanes, &mut self.turn);
        let count = lanes.len();
        std::future::poll_fn(move |context| {
            for step in 0..count {
                let index = (*turn + step) % count;
                let Some(lane) = lanes.get_mut(index) else { continue };
                if let Some(Poll::Ready(event)) = lane.poll(context) {
                    *turn = index + 1;
                    return Poll::Ready((index, event));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn take(&mut self, index: usize, event: Option<Event>) -> Result<(), ApiError> {
        let Some(lane) = self.lanes.get_mut(index) else { return Ok(()) };
        if let Some(Event::Token { .. }) = event {
            let metrics = &self.app.metrics;
            metrics.generated_tokens.add(1);
            if !std::mem::replace(&mut self.first_token_seen, true) {
                metrics.time_to_first_token.observe(self.started.elapsed());
            }
            if let Some(gap) = lane.gap() {
                metrics.time_per_token.observe(gap);
            }
        }
        let pieces = lane.take(event)?;
        let choice = u32::try_from(index).unwrap_or(u32::MAX);
        self.ready.extend(pieces.into_iter().map(|piece| (choice, piece)));
        Ok(())
    }

    /// Exact once every choice has ended.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            prompt: self.prompt_tokens,
            // Further choices of a prompt share what the first has just computed.
            cached: self.lanes.iter().step_by(self.choices_per_prompt()).map(|lane| lane.cached_tokens).sum(),
            generated: self.lanes.iter().map(|lane| lane.generated_tokens).sum(),
        }
    }

    fn choices_per_prompt(&self) -> usize {
        self.lanes.first().map_or(1, |lane| lane.choices_per_prompt.max(1))
    }

    /// Nothing more will come.
    pub(crate) fn is_over(&self) -> bool {
        self.ready.is_empty() && self.lanes.iter().all(Lane::is_done)
    }

    pub(crate) fn choices(&self) -> u32 {
        u32::try_from(self.lanes.len()).unwrap_or(u32::MAX)
    }

    /// Waits for everything.
    pub(crate) async fn collect(mut self) -> Result<Collected, ApiError> {
        let mut logprobs: Vec<Vec<Logprob>> = self.lanes.iter().map(|_| Vec::new()).collect();
        while let Some(next) = self.next().await {
            let (choice, piece) = next?;
            if let (Piece::Text { logprobs: more, .. }, Some(all)) = (piece, logprobs.get_mut(choice as usize)) {
                all.extend(more);
            }
        }
        let receipt = match self.receipt() {
            Some(signed) => signed.ready().await,
            None => None,
        };
        let mut wholes = std::mem::take(&mut self.wholes);
        wholes.iter_mut().zip(logprobs).for_each(|(whole, logprobs)| whole.logprobs = logprobs);
        Ok(Collected { wholes, counts: self.counts(), receipt })
    }

    /// Settles the request by what has come until now, once.
    pub(crate) fn receipt(&mut self) -> Option<Signed> {
        let mut admitted = self.admitted.take()?;
        let Counts { prompt, cached, generated } = self.counts();
        admitted.output(&transcript(&self.wholes));
        let cpu_ns = self.spent_ns + self.lanes.iter().map(Lane::cpu_ns).sum::<u64>();
        let computed = prompt.saturating_sub(cached).saturating_add(generated);
        admitted.finish(Outcome {
            prompt_tokens: prompt,
            completion_tokens: generated,
            cached_tokens: cached,
            energy: self.app.power.charge(&self.loan.facts.id, cpu_ns, computed),
        })
    }
}

/// What a receipt's output commits to: a JSON array with an object per choice, `text`, `thinking` if there is some and `calls` if there
/// are some, each with `name` and `arguments`; no spaces.
fn transcript(wholes: &[Whole]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Choice<'a> {
        text: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        thinking: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        calls: Vec<Called<'a>>,
    }
    #[derive(Serialize)]
    struct Called<'a> {
        name: &'a str,
        arguments: &'a str,
    }
    fn called(Call { name, arguments, .. }: &Call) -> Called<'_> {
        Called { name, arguments }
    }
    fn choice(Whole { text, thinking, calls, .. }: &Whole) -> Choice<'_> {
        Choice { text, thinking, calls: calls.iter().map(called).collect() }
    }
    // Strings always serialise.
    serde_json::to_vec(&wholes.iter().map(choice).collect::<Vec<_>>()).unwrap_or_default()
}

/// What was set, as bits: a replay needs it exactly.
fn receipt_sampling(sampling: &Sampling) -> falaj_ledger::Sampling {
    let set = |value: f32, usual: f32| (value != usual).then(|| value.to_bits());
    falaj_ledger::Sampling {
        temperature_bits: Some(sampling.temperature.to_bits()),
        top_p_bits: set(sampling.top_p, 1.0),
        top_k: sampling.top_k,
        min_p_bits: set(sampling.min_p, 0.0),
        frequency_penalty_bits: set(sampling.frequency_penalty, 0.0),
        presence_penalty_bits: set(sampling.presence_penalty, 0.0),
        repetition_penalty_bits: set(sampling.repetition_penalty, 1.0),
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.receipt();
        let metrics = &self.app.metrics;
        metrics.request_time.observe(self.started.elapsed());
        metrics.cached_tokens.add(self.counts().cached);
        if self.failed {
            metrics.stream_errors.add(1);
        } else if !self.lanes.iter().all(Lane::is_done) {
            metrics.cancelled.add(1);
        }
    }
}

impl Whole {
    /// All but log-probabilities, which no receipt knows.
    fn add(&mut self, piece: &Piece) {
        match piece {
            Piece::Text { text, .. } => self.text.push_str(text),
            Piece::Thinking(text) => self.thinking.push_str(text),
            Piece::CallStart { id, name, .. } => {
                self.calls.push(Call { id: id.clone(), name: name.clone(), arguments: String::new() });
            }
            Piece::CallArguments { index, fragment } => {
                if let Some(call) = self.calls.get_mut(*index as usize) {
                    call.arguments.push_str(fragment);
                }
            }
            Piece::End(finish) => self.finish = finish.clone(),
        }
    }
}
