//! What one continuation of a prompt has of its own: how it draws, what it has drawn, whom it tells. A turn is one step's
//! worth of rows with logits, one or several; every row is drawn as it would have been alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc;

use crate::reply::CpuTime;
use crate::request::{Constraint, Event, FinishReason, Sampling, TokenMask, Usage};
use crate::sampling::{Draw, Drawn, Sampler, Seen};
use crate::speculation::Origin;

/// What a generation needs beside its tokens.
pub(crate) struct Generation {
    pub(crate) sampling: Sampling,
    pub(crate) max_tokens: usize,
    pub(crate) min_tokens: usize,
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) constraint: Option<Box<dyn Constraint>>,
    pub(crate) logprobs: Option<u8>,
    pub(crate) seen: Seen,
    pub(crate) generated: usize,
    pub(crate) cached_tokens: Arc<AtomicU32>,
    pub(crate) cpu: CpuTime,
    pub(crate) events: mpsc::Sender<Event>,
    /// Further choices of the same prompt, until it is computed.
    pub(crate) siblings: Vec<Generation>,
    /// Proposals for the tokens that come next: see `scheduler::propose`.
    pub(crate) proposed: Vec<u32>,
    /// Where they come from, and how many the draft model is asked for.
    pub(crate) origin: Option<Origin>,
    pub(crate) wanted: usize,
    /// What the last turn drew, in order, and how it ended. A stop token is not in it.
    pub(crate) drawn: Vec<u32>,
    /// Rows of the last turn whose input was right: their keys and values stay.
    pub(crate) verified: usize,
    pub(crate) ending: Option<Ending>,
}

/// Why a generation goes no further.
pub(crate) enum Ending {
    Finished(FinishReason),
    Failed(String),
}

/// What came of one row of logits.
enum Next {
    Token(u32),
    End(Ending),
}

impl Generation {
    /// Events that can be sent now: its reader may be behind.
    pub(crate) fn room(&self) -> usize {
        self.events.capacity()
    }

    /// Whether all receivers are gone, and how many left. One of the siblings takes the first place where it became free.
    pub(crate) fn drop_abandoned(&mut self) -> (bool, usize) {
        let before = 1 + self.siblings.len();
        self.siblings.retain(|sibling| !sibling.events.is_closed());
        if self.events.is_closed() {
            let Some(mut heir) = self.siblings.pop() else { return (true, before) };
            heir.siblings = std::mem::take(&mut self.siblings);
            heir.count_hit(self.cached_tokens.load(Ordering::Relaxed) as usize);
            *self = heir;
        }
        (false, before - 1 - self.siblings.len())
    }

    pub(crate) fn count_hit(&self, tokens: usize) {
        self.cached_tokens.fetch_add(tokens as u32, Ordering::Relaxed);
    }

    /// Draws from the rows of one turn: `logits(i)` (V) is what followed the sequence's tokens and the first `i` proposals.
    /// The first token that is not the one proposed ends the turn, and so does an end.
    pub(crate) fn turn<'a>(
        &mut self,
        logits: impl Fn(usize) -> Option<&'a [f32]>,
        rows: usize,
        sampler: &mut Sampler,
        mask: &mut TokenMask,
    ) {
        self.drawn.clear();
        self.verified = 0;
        for row in 0..rows {
            let Some(logits) = logits(row) else { break };
            self.verified += 1;
            match self.next(logits, sampler, mask) {
                Next::End(ending) => {
                    self.ending = Some(ending);
                    break;
                }
                Next::Token(token) => {
                    self.drawn.push(token);
                    if self.generated >= self.max_tokens {
                        self.ending = Some(Ending::Finished(FinishReason::Length));
                        break;
                    }
                    if self.proposed.get(row) != Some(&token) {
                        break;
                    }
                }
            }
        }
    }

    /// Draws the next token and sends it.
    fn next(&mut self, logits: &[f32], sampler: &mut Sampler, mask: &mut TokenMask) -> Next {
        let failed = |message: String| Next::End(Ending::Failed(message));
        if let Some(constraint) = &mut self.constraint {
            mask.clear();
            if let Err(error) = constraint.allowed(mask) {
                return failed(error.to_string());
            }
        }
        let drawn = sampler.draw(
            logits,
            &Draw {
                sampling: &self.sampling,
                seen: &self.seen,
                position: self.generated as u64,
                allowed: self.constraint.is_some().then_some(&*mask),
                forbidden: if self.generated < self.min_tokens { &self.stop_tokens } else { &[] },
                logprobs: self.logprobs,
            },
        );
        let (token, logprob) = match drawn {
            Drawn::Token { token, logprob } => (token, logprob),
            Drawn::Nothing => return Next::End(Ending::Finished(FinishReason::Stop)),
            Drawn::NotANumber => return failed(NOT_NUMBERS.to_owned()),
        };
        if let Some(constraint) = &mut self.constraint
            && let Err(error) = constraint.accept(token)
        {
            return failed(error.to_string());
        }
        if self.stop_tokens.contains(&token) {
            return Next::End(Ending::Finished(FinishReason::Stop));
        }
        self.generated += 1;
        self.seen.generated(token);
        // Room was checked before the row was scheduled; a closed channel is noticed at the next turn.
        let _ = self.events.try_send(Event::Token { token, logprob });
        Next::Token(token)
    }

    pub(crate) fn finish(&self, prompt_tokens: usize, reason: FinishReason) {
        for generation in std::iter::once(self).chain(&self.siblings) {
            let usage = Usage {
                prompt_tokens: prompt_tokens as u32,
                cached_tokens: generation.cached_tokens.load(Ordering::Relaxed),
                completion_tokens: generation.generated as u32,
            };
            // A receiver that has just gone needs no end.
            let _ = generation.events.try_send(Event::Done { reason, usage });
        }
    }

    pub(crate) fn fail(&self, message: &str) {
        for generation in std::iter::once(self).chain(&self.siblings) {
            let _ = generation.events.try_send(Event::Failed(message.to_owned()));
        }
    }
}

pub(crate) const NOT_NUMBERS: &str =
    "the model's scores are not numbers (NaN or infinite); its weights are damaged, verify the model";
