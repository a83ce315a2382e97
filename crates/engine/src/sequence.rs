//! One request on its way: its tokens, how far its keys and values are computed, the pages that hold them, and what is to
//! be done with each row's result. What it draws is in `generation.rs`.

use std::sync::Arc;

use falaj_model::{Adapter, PAGE_TOKENS};
use tokio::sync::oneshot;

use crate::generation::Generation;
use crate::pages::{Page, Pages, Parent};
use crate::reply::CpuTime;
use crate::request::{FinishReason, Scores, Tenant, TokenLogprob};

/// A sequence of tokens. `tokens[..computed]` have keys and values in `pages`; the rest is still to run.
pub(crate) struct Sequence {
    /// Order of arrival. Who came last gives way first.
    pub(crate) id: u64,
    /// Prompt and generated tokens.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_tokens: usize,
    pub(crate) computed: usize,
    /// By position. Those before `given_back` are other sequences' by now: they lie behind the model's window.
    pub(crate) pages: Vec<Page>,
    given_back: usize,
    /// How many of `pages` are full and known to the prefix cache, and the chain up to there.
    published: usize,
    parent: Parent,
    pub(crate) tenant: Tenant,
    /// Its tenant's, once it was looked at: `fair.rs`.
    pub(crate) account: Option<usize>,
    /// The tenant's, and its adapter's.
    pub(crate) salt: u64,
    /// What its rows are computed with beside the model.
    pub(crate) adapter: Option<Arc<Adapter>>,
    /// Pages at the beginning that others who run are about to compute.
    pub(crate) expected: usize,
    pub(crate) preempted: bool,
    /// How many were admitted before this one although they came later.
    pub(crate) overtaken: u32,
    /// Whether the store on disk was asked for its beginning.
    pub(crate) lookup: Lookup,
    /// When it is computed, its pages stay: it is a pin.
    pub(crate) pin: bool,
    pub(crate) work: Work,
    /// Rows that the next step is to compute.
    pub(crate) turn: usize,
    pub(crate) rows: Rows,
    pub(crate) ended: bool,
}

/// Where a sequence's rows lie in the current batch: `count` from `first`, the last `outputs` of which bring logits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) outputs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Unasked,
    Asked,
    Done,
}

pub(crate) enum Work {
    Generate(Box<Generation>),
    Embed(Pooling),
    Score(Scoring),
    /// A generation that is being sampled.
    Away,
}

/// The running sum of hidden states, over positions in order.
pub(crate) struct Pooling {
    pub(crate) sum: Vec<f32>,
    /// Positions in `sum`; it outlives a preemption.
    pub(crate) pooled: usize,
    pub(crate) cpu: CpuTime,
    pub(crate) reply: Option<oneshot::Sender<Result<Vec<f32>, String>>>,
}

/// The log-probabilities of a text's tokens, over positions in order. The sequence is the text without its last token, which
/// nothing follows.
pub(crate) struct Scoring {
    pub(crate) last: u32,
    /// The position whose row gives the next score; it outlives a preemption.
    pub(crate) next: usize,
    pub(crate) top: u8,
    pub(crate) scores: Scores,
    pub(crate) failure: Option<String>,
    pub(crate) cpu: CpuTime,
    pub(crate) reply: Option<oneshot::Sender<Result<Scores, String>>>,
}

impl Sequence {
    pub(crate) fn new(id: u64, tokens: Vec<u32>, salt: u64, work: Work) -> Self {
        Self {
            id,
            prompt_tokens: tokens.len(),
            tokens,
            computed: 0,
            pages: Vec::new(),
            given_back: 0,
            published: 0,
            parent: Parent::Salt(salt),
            tenant: Tenant::default(),
            account: None,
            salt,
            adapter: None,
            expected: 0,
            preempted: false,
            overtaken: 0,
            lookup: Lookup::Unasked,
            pin: false,
            work,
            turn: 0,
            rows: Rows::default(),
            ended: false,
        }
    }

    /// It is `tenant`'s, and its rows are computed with `adapter`, if there is one.
    pub(crate) fn with(self, tenant: Tenant, adapter: Option<Arc<Adapter>>) -> Self {
        Self { tenant, adapter, ..self }
    }

    pub(crate) fn generation(&mut self) -> Option<&mut Generation> {
        match &mut self.work {
            Work::Generate(generation) => Some(generation),
            Work::Embed(_) | Work::Score(_) | Work::Away => None,
        }
    }

    /// Where its part of the steps' CPU time is counted.
    pub(crate) fn cpu(&self) -> Option<&CpuTime> {
        match &self.work {
            Work::Generate(generation) => Some(&generation.cpu),
            Work::Embed(pooling) => Some(&pooling.cpu),
            Work::Score(scoring) => Some(&scoring.cpu),
            Work::Away => None,
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

    /// Pages that it will still ask for, for the tokens so far. Behind a window pages come back while it runs, so that it
    /// never has more than `most` at once.
    pub(crate) fn pages_to_come(&self, most: usize) -> usize {
        let to_come = self.pages_needed().saturating_sub(self.pages.len().max(self.expected));
        to_come.min(most.saturating_sub(self.pages_held()))
    }

    /// Pages that it holds now.
    pub(crate) fn pages_held(&self) -> usize {
        self.pages.len() - self.given_back
    }

    /// Requests that it stands for: choices of one prompt travel together until the prompt is computed.
    pub(crate) fn requests(&self) -> usize {
        match &self.work {
            Work::Generate(generation) => 1 + generation.siblings.len(),
            Work::Embed(_) | Work::Score(_) | Work::Away => 1,
        }
    }

    /// Every receiver went away. Where only some did, the others go on; returns how many left as well.
    pub(crate) fn drop_abandoned(&mut self) -> (bool, usize) {
        match &mut self.work {
            Work::Generate(_) if self.pin => (false, 0),
            Work::Generate(generation) => generation.drop_abandoned(),
            Work::Embed(pooling) => left_alone(pooling.reply.as_ref()),
            Work::Score(scoring) => left_alone(scoring.reply.as_ref()),
            Work::Away => (false, 0),
        }
    }

    /// Its reader is behind: a step could bring a token and the end, and there is no room for two events.
    pub(crate) fn is_paused(&self) -> bool {
        match &self.work {
            Work::Generate(generation) => generation.room() < 2,
            Work::Embed(_) | Work::Score(_) | Work::Away => false,
        }
    }

    /// Takes over pages that the prefix cache knows, from where this sequence stands; it must stand at a page's beginning
    /// with all before it published. Returns tokens won.
    pub(crate) fn reuse_prefix(&mut self, pages: &mut Pages) -> usize {
        if !self.reuses() {
            return 0;
        }
        let start = self.computed;
        while self.computed == self.published * PAGE_TOKENS && self.may_wait() {
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

    /// Whether pages that others computed serve it, and its own others. Pooling needs every position's hidden state, which no
    /// page holds.
    pub(crate) fn reuses(&self) -> bool {
        matches!(self.work, Work::Generate(_) | Work::Score(_))
    }

    /// Tokens at the beginning whose rows it does not need itself. The last token's is what a generation is for.
    pub(crate) fn reusable(&self) -> usize {
        match &self.work {
            Work::Generate(_) | Work::Away => self.tokens.len() - 1,
            Work::Score(scoring) => scoring.next,
            Work::Embed(_) => 0,
        }
    }

    /// Pages that the prefix cache could give it now.
    pub(crate) fn known_prefix(&self, pages: &Pages) -> usize {
        if self.reuses() { pages.known(self.salt, &self.tokens[..self.reusable()]) } else { 0 }
    }

    /// Whole pages at the beginning that are those of `other` too.
    pub(crate) fn pages_in_common(&self, other: &Self) -> usize {
        if self.salt != other.salt || !self.reuses() || !other.reuses() {
            return 0;
        }
        let own = self.tokens[..self.reusable()].chunks_exact(PAGE_TOKENS);
        own.zip(other.tokens.chunks_exact(PAGE_TOKENS)).take_while(|(own, others)| own == others).count()
    }

    /// The page that this sequence is about to fill, as the prefix cache would know it, if its whole content is given and
    /// more comes after it.
    pub(crate) fn next_page(&self) -> Option<(Parent, [u32; PAGE_TOKENS])> {
        let next = self.tokens.get(self.computed..)?.first_chunk()?;
        let own = self.reuses() && self.computed == self.published * PAGE_TOKENS;
        own.then_some((self.parent, *next))
    }

    /// Whether `next_page` could be taken over from another sequence.
    pub(crate) fn may_wait(&self) -> bool {
        self.computed + PAGE_TOKENS <= self.reusable()
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

    /// Gives back the pages that no later row of this sequence sees: a position sees itself and `window - 1` before it.
    pub(crate) fn give_back(&mut self, window: usize, pages: &mut Pages) {
        let first_seen = (self.computed + 1).saturating_sub(window);
        let behind = (first_seen / PAGE_TOKENS).min(self.published);
        for page in &self.pages[self.given_back.min(behind)..behind] {
            pages.release(*page);
        }
        self.given_back = self.given_back.max(behind);
    }

    /// A further choice of the same prompt, which this step's rows complete: it shares all pages and the row of logits, and
    /// writes into no page that others hold.
    pub(crate) fn fork(&self, id: u64, generation: Box<Generation>, pages: &mut Pages) -> Self {
        let mut tokens = Vec::with_capacity(self.tokens.len() + generation.max_tokens);
        tokens.extend_from_slice(&self.tokens);
        self.pages[self.given_back..].iter().for_each(|page| pages.retain(*page));
        Self {
            tokens,
            pages: self.pages.clone(),
            adapter: self.adapter.clone(),
            computed: self.computed + self.rows.count - 1,
            expected: 0,
            overtaken: 0,
            turn: 1,
            rows: Rows { first: self.rows.first + self.rows.count - 1, count: 1, outputs: 1 },
            ended: false,
            work: Work::Generate(generation),
            id,
            ..*self
        }
    }

    /// Keeps the full pages and gives the last back, if it is not full.
    pub(crate) fn keep_full_pages(&mut self, pages: &mut Pages) {
        self.pages.drain(self.published.max(self.given_back)..).for_each(|page| pages.release(page));
    }

    /// Gives all pages back; everything is to be computed again, on the same path.
    pub(crate) fn release(&mut self, pages: &mut Pages) {
        // The last first, so that a page is never forgotten before those that follow it.
        self.pages.drain(self.given_back..).rev().for_each(|page| pages.release(page));
        self.pages.clear();
        self.given_back = 0;
        self.computed = 0;
        self.published = 0;
        self.expected = 0;
        self.parent = Parent::Salt(self.salt);
    }

    /// Tells the receivers the end. There is always room: a token is only computed when two events fit.
    pub(crate) fn finish(&mut self, reason: FinishReason) {
        self.ended = true;
        if let Work::Generate(generation) = &self.work {
            generation.finish(self.prompt_tokens, reason);
        }
    }

    pub(crate) fn fail(&mut self, message: &str) {
        self.ended = true;
        match &mut self.work {
            Work::Generate(generation) => generation.fail(message),
            Work::Embed(pooling) => {
                if let Some(reply) = pooling.reply.take() {
                    let _ = reply.send(Err(message.to_owned()));
                }
            }
            Work::Score(scoring) => scoring.reply(Err(message.to_owned())),
            Work::Away => {}
        }
    }
}

/// Whether nobody waits for the reply any more, and how many left.
fn left_alone<T>(reply: Option<&oneshot::Sender<T>>) -> (bool, usize) {
    if reply.is_none_or(oneshot::Sender::is_closed) { (true, 1) } else { (false, 0) }
}

impl Scoring {
    /// The score of the next place.
    pub(crate) fn add(&mut self, score: &TokenLogprob) {
        self.scores.push(score);
        self.next += 1;
    }

    pub(crate) fn reply(&mut self, result: Result<(), String>) {
        let result = result.map(|()| std::mem::take(&mut self.scores));
        if let Some(reply) = self.reply.take() {
            // A receiver that has just gone needs no reply.
            let _ = reply.send(result);
        }
    }
}

impl Pooling {
    pub(crate) fn add(&mut self, position: usize, hidden: &[f32]) {
        // A position that was pooled before a preemption is computed again, but counted once.
        if position != self.pooled {
            return;
        }
        if self.sum.is_empty() {
            self.sum.resize(hidden.len(), 0.0);
        }
        for (sum, value) in self.sum.iter_mut().zip(hidden) {
            *sum += value;
        }
        self.pooled += 1;
    }

    pub(crate) fn reply(&mut self) {
        let count = self.pooled.max(1) as f32;
        let mut mean = std::mem::take(&mut self.sum);
        mean.iter_mut().for_each(|value| *value /= count);
        if let Some(reply) = self.reply.take() {
            let finite = mean.iter().all(|value| value.is_finite());
            let not_numbers = || "the model's hidden states are not numbers; its weights are damaged, verify the model";
            // A receiver that has just gone needs no reply.
            let _ = reply.send(if finite { Ok(mean) } else { Err(not_numbers().to_owned()) });
        }
    }
}
