//! One request on its way: its tokens, how far its keys and values are computed, the pages that hold them, and what is to
//! be done with each row's result.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use falaj_model::PAGE_TOKENS;
use tokio::sync::{mpsc, oneshot};

use crate::pages::{Page, Pages, Parent};
use crate::request::{Constraint, Event, FinishReason, Sampling, Usage};
use crate::sampling::Seen;

/// A sequence of tokens. `tokens[..computed]` have keys and values in `pages`; the rest is still to run.
pub(crate) struct Sequence {
    /// Order of arrival. Who came last gives way first.
    pub(crate) id: u64,
    /// Prompt and generated tokens.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_tokens: usize,
    pub(crate) computed: usize,
    pub(crate) pages: Vec<Page>,
    /// How many of `pages` are full and known to the prefix cache, and the chain up to there.
    published: usize,
    parent: Parent,
    salt: u64,
    pub(crate) preempted: bool,
    pub(crate) work: Work,
    /// Rows in the current batch: the first row and their number.
    pub(crate) rows: (usize, usize),
    pub(crate) ended: bool,
}

pub(crate) enum Work {
    Generate(Box<Generation>),
    Embed(Pooling),
}

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
    pub(crate) events: mpsc::Sender<Event>,
}

/// The running sum of hidden states, over positions in order.
pub(crate) struct Pooling {
    pub(crate) sum: Vec<f32>,
    /// Positions in `sum`; it outlives a preemption.
    pub(crate) pooled: usize,
    pub(crate) reply: Option<oneshot::Sender<Result<Vec<f32>, String>>>,
}

impl Sequence {
    pub(crate) fn new(id: u64, tokens: Vec<u32>, salt: u64, work: Work) -> Self {
        Self {
            id,
            prompt_tokens: tokens.len(),
            tokens,
            computed: 0,
            pages: Vec::new(),
            published: 0,
            parent: Parent::Salt(salt),
            salt,
            preempted: false,
            work,
            rows: (0, 0),
            ended: false,
        }
    }

    /// Tokens still to run. At least one while it lives: the last token's row gives the next.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Pages that the tokens so far need.
    pub(crate) fn pages_needed(&self) -> usize {
        self.tokens.len().div_ceil(PAGE_TOKENS)
    }

    /// The receiver went away.
    pub(crate) fn is_abandoned(&self) -> bool {
        match &self.work {
            Work::Generate(generation) => generation.events.is_closed(),
            Work::Embed(pooling) => pooling.reply.as_ref().is_none_or(oneshot::Sender::is_closed),
        }
    }

    /// Its reader is behind: a step could bring a token and the end, and there is no room for two events.
    pub(crate) fn is_paused(&self) -> bool {
        match &self.work {
            Work::Generate(generation) => generation.events.capacity() < 2,
            Work::Embed(_) => false,
        }
    }

    /// Its reader keeps up and its rows have pages. Both are asked, for the reader runs on another thread: it may have caught
    /// up after this sequence, still paused, was passed over when pages were given.
    pub(crate) fn can_run(&self) -> bool {
        !self.is_paused() && self.pages.len() >= self.pages_needed()
    }

    /// Takes over pages that the prefix cache knows, from where this sequence stands; it must stand at a page's beginning
    /// with all before it published. The last token is always left: its row is what the request is for. Returns tokens won.
    pub(crate) fn reuse_prefix(&mut self, pages: &mut Pages) -> usize {
        // Pooling needs every position's hidden state, which no page holds.
        if matches!(self.work, Work::Embed(_)) {
            return 0;
        }
        let start = self.computed;
        while self.computed == self.published * PAGE_TOKENS && self.computed + PAGE_TOKENS < self.tokens.len() {
            let tokens = &self.tokens[self.computed..self.computed + PAGE_TOKENS];
            let Some(page) = pages.reuse(self.parent, tokens) else { break };
            match self.pages.get_mut(self.published) {
                Some(own) => pages.release(std::mem::replace(own, page)),
                None => self.pages.push(page),
            }
            self.parent = pages.as_parent(page);
            self.published += 1;
            self.computed += PAGE_TOKENS;
        }
        self.computed - start
    }

    /// The page that this sequence is about to fill, as the prefix cache would know it, if its whole content is given.
    pub(crate) fn next_page(&self) -> Option<(Parent, [u32; PAGE_TOKENS])> {
        let next = self.tokens.get(self.computed..)?.first_chunk()?;
        (self.computed == self.published * PAGE_TOKENS).then_some((self.parent, *next))
    }

    /// Makes the pages that have become full known to the prefix cache.
    pub(crate) fn publish(&mut self, pages: &mut Pages) {
        while (self.published + 1) * PAGE_TOKENS <= self.computed {
            let start = self.published * PAGE_TOKENS;
            let own = &mut self.pages[self.published];
            *own = pages.publish(*own, self.parent, &self.tokens[start..start + PAGE_TOKENS]);
            self.parent = pages.as_parent(*own);
            self.published += 1;
        }
    }

    /// Gives all pages back; everything is to be computed again, on the same path.
    pub(crate) fn release(&mut self, pages: &mut Pages) {
        while let Some(page) = self.pages.pop() {
            pages.release(page);
        }
        self.computed = 0;
        self.published = 0;
        self.parent = Parent::Salt(self.salt);
    }

    /// Tells the receiver the end. There is always room: a token is only computed when two events fit.
    pub(crate) fn finish(&mut self, reason: FinishReason) {
        self.ended = true;
        if let Work::Generate(generation) = &self.work {
            let usage = Usage {
                prompt_tokens: self.prompt_tokens as u32,
                cached_tokens: generation.cached_tokens.load(Ordering::Relaxed),
                completion_tokens: generation.generated as u32,
            };
            // A receiver that has just gone needs no end.
            let _ = generation.events.try_send(Event::Done { reason, usage });
        }
    }

    pub(crate) fn fail(&mut self, message: &str) {
        self.ended = true;
        match &mut self.work {
            Work::Generate(generation) => {
                let _ = generation.events.try_send(Event::Failed(message.to_owned()));
            }
            Work::Embed(pooling) => {
                if let Some(reply) = pooling.reply.take() {
                    let _ = reply.send(Err(message.to_owned()));
                }
            }
        }
    }
}
