//! The engine thread: each turn takes in what arrived, drops what nobody waits for, admits, fills one batch (single decode
//! rows first, then prompt chunks), runs it, and hands out what came of it. Nothing here depends on time but the estimate of
//! how long a queue takes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use falaj_model::{Batch, KvCache, Model, PAGE_TOKENS, Want, Workspace};

use crate::engine::{Shared, Stop};
use crate::pages::{Pages, Parent};
use crate::request::{Event, FinishReason, TokenMask};
use crate::sampling::{Draw, Drawn, Sampler};
use crate::sequence::{Generation, Pooling, Sequence, Work};
use crate::stats::Stats;

/// Everything that the engine thread owns.
pub(crate) struct Scheduler {
    pub(crate) model: Arc<Model>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) workspace: Workspace,
    pub(crate) cache: KvCache,
    pub(crate) pages: Pages,
    pub(crate) max_sequences: usize,
    pub(crate) waiting: VecDeque<Sequence>,
    /// In order of arrival.
    pub(crate) running: Vec<Sequence>,
    pub(crate) batch: Batch,
    pub(crate) sampler: Sampler,
    pub(crate) mask: TokenMask,
    pub(crate) last_finish: Option<Instant>,
    /// Pages that the step being filled will make known.
    pub(crate) coming: Vec<(Parent, [u32; PAGE_TOKENS])>,
}

impl Scheduler {
    /// Runs until it is told to stop, and, when draining, has nothing left to do.
    pub(crate) fn run(mut self) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let idle = self.waiting.is_empty() && self.running.is_empty();
            let stop = self.shared.collect(&mut self.waiting, idle);
            if stop == Stop::Now {
                self.fail_all("the engine is shutting down; send the request again later");
            }
            self.drop_abandoned();
            if stop != Stop::No && self.waiting.is_empty() && self.running.is_empty() {
                self.gauges();
                return;
            }
            self.admit();
            self.fill();
            self.gauges();
            if self.batch.is_empty() {
                // Only readers that are behind: look again soon, and more seldom the longer it lasts.
                self.shared.wait(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
            pause = SHORTEST_PAUSE;
            self.step();
            self.remove_ended();
            self.gauges();
        }
    }

    fn drop_abandoned(&mut self) {
        let stats = &self.shared.stats;
        let mut drop_from = |sequence: &mut Sequence| {
            let abandoned = sequence.is_abandoned();
            if abandoned {
                sequence.release(&mut self.pages);
                Stats::add(&stats.cancelled, 1);
            }
            !abandoned
        };
        self.waiting.retain_mut(&mut drop_from);
        self.running.retain_mut(drop_from);
    }

    /// First come, first served: the head of the queue is admitted when its whole prompt finds pages.
    fn admit(&mut self) {
        while self.running.len() < self.max_sequences
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            let queried = if sequence.preempted { 0 } else { sequence.tokens.len() };
            let hit = sequence.reuse_prefix(&mut self.pages);
            let missing = sequence.pages_needed() - sequence.pages.len();
            // Those who run get one page more each before somebody new comes, or admission would only cause preemption.
            if self.pages.available() < missing + self.running.len() {
                sequence.release(&mut self.pages);
                self.waiting.push_front(sequence);
                return;
            }
            let allocated = std::iter::from_fn(|| self.pages.allocate()).take(missing);
            sequence.pages.extend(allocated);
            Stats::add(&self.shared.stats.prefix_query_tokens, queried);
            count_hit(&self.shared.stats, &mut sequence, hit);
            let place = self.running.partition_point(|other| other.id < sequence.id);
            self.running.insert(place, sequence);
        }
    }

    /// Chooses the rows of the next step: first those that decode, since they are few rows and each has somebody waiting
    /// for its next token, then prompts in chunks.
    fn fill(&mut self) {
        self.batch.clear();
        self.coming.clear();
        self.extend_pages();
        self.choose_rows();
    }

    /// The rows of those that can run.
    fn choose_rows(&mut self) {
        for sequence in &mut self.running {
            sequence.rows = (0, 0);
            if sequence.remaining() == 1 && sequence.can_run() {
                push_rows(&mut self.batch, sequence, 1);
            }
        }
        for sequence in &mut self.running {
            let room = self.workspace.max_rows() - self.batch.rows();
            if room == 0 {
                break;
            }
            if sequence.rows.1 > 0 || !sequence.can_run() {
                continue;
            }
            // Another request may have computed the same beginning since this one was admitted, or is just about to: then
            // it is cheaper to wait for a step than to compute it twice.
            let hit = sequence.reuse_prefix(&mut self.pages);
            count_hit(&self.shared.stats, sequence, hit);
            let next = sequence.next_page().filter(|_| self.pages.remembers());
            if next.is_some_and(|next| matches!(sequence.work, Work::Generate(_)) && self.coming.contains(&next)) {
                continue;
            }
            push_rows(&mut self.batch, sequence, room);
            if sequence.rows.1 >= PAGE_TOKENS {
                self.coming.extend(next);
            }
        }
    }

    /// Gives every sequence the page that its next row needs. Where there is none, who came last is sent back to the queue.
    fn extend_pages(&mut self) {
        let mut number = 0;
        while let Some(sequence) = self.running.get_mut(number) {
            if sequence.is_paused() || sequence.pages.len() >= sequence.pages_needed() {
                number += 1;
            } else if let Some(page) = self.pages.allocate() {
                sequence.pages.push(page);
            } else {
                self.preempt_youngest();
            }
        }
    }

    fn preempt_youngest(&mut self) {
        if let Some(mut youngest) = self.running.pop() {
            youngest.release(&mut self.pages);
            youngest.preempted = true;
            Stats::add(&self.shared.stats.preemptions, 1);
            // It came before everybody who waits, and after those preempted later in this step.
            self.waiting.push_front(youngest);
        }
    }

    fn step(&mut self) {
        let rows = self.batch.rows();
        let forward = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            self.shared.injected_fault();
            self.model.forward(&mut self.workspace, &mut self.cache, &self.batch)
        }));
        Stats::add(&self.shared.stats.steps, 1);
        Stats::add(&self.shared.stats.batch_rows, rows);
        let failure = match forward {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic_message(&*panic)),
        };
        if let Some(cause) = failure {
            // Which pages were half written is unknown, so none is offered to others.
            self.pages.forget_everything();
            let message = format!("the forward pass failed: {cause}; this is a bug, please report it");
            for sequence in self.running.iter_mut().filter(|sequence| sequence.rows.1 > 0) {
                sequence.fail(&message);
                Stats::add(&self.shared.stats.failed, 1);
            }
            return;
        }
        for number in 0..self.running.len() {
            if self.running[number].rows.1 == 0 {
                continue;
            }
            // A constraint is foreign code: when it panics, its request fails and the others go on.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.advance(number))) {
                let message =
                    format!("the request failed: {}; this is a bug, please report it", panic_message(&*panic));
                self.fail(number, &message);
            }
        }
    }

    /// Takes what the step computed for one sequence.
    fn advance(&mut self, number: usize) {
        let sequence = &mut self.running[number];
        let (first_row, rows) = sequence.rows;
        let first_position = sequence.computed;
        sequence.computed += rows;
        sequence.publish(&mut self.pages);
        let complete = sequence.remaining() == 0;
        match &mut sequence.work {
            Work::Embed(pooling) => {
                for (row, position) in (first_row..first_row + rows).zip(first_position..) {
                    pooling.add(position, self.workspace.hidden(row).unwrap_or_default());
                }
                if complete {
                    pooling.reply();
                    sequence.ended = true;
                    self.count_end();
                }
            }
            Work::Generate(generation) if complete => {
                if generation.max_tokens == 0 {
                    return self.finish(number, FinishReason::Length);
                }
                let Some(logits) = self.workspace.logits(first_row + rows - 1) else { return };
                match generation.next(logits, &mut self.sampler, &mut self.mask) {
                    Next::Token { token, last } => {
                        Stats::add(&self.shared.stats.generated_tokens, 1);
                        if last {
                            self.finish(number, FinishReason::Length);
                        } else {
                            sequence.tokens.push(token);
                        }
                    }
                    Next::Stop => self.finish(number, FinishReason::Stop),
                    Next::Failed(message) => self.fail(number, &message),
                }
            }
            Work::Generate(_) => {}
        }
    }

    fn finish(&mut self, number: usize, reason: FinishReason) {
        self.running[number].finish(reason);
        self.count_end();
    }

    fn fail(&mut self, number: usize, message: &str) {
        self.running[number].fail(message);
        Stats::add(&self.shared.stats.failed, 1);
    }

    fn fail_all(&mut self, message: &str) {
        for mut sequence in self.waiting.drain(..).chain(self.running.drain(..)) {
            sequence.release(&mut self.pages);
            sequence.fail(message);
            Stats::add(&self.shared.stats.failed, 1);
        }
    }

    fn remove_ended(&mut self) {
        for sequence in self.running.iter_mut().filter(|sequence| sequence.ended) {
            sequence.release(&mut self.pages);
        }
        self.running.retain(|sequence| !sequence.ended);
        if self.waiting.is_empty() && self.running.is_empty() {
            // The next request's wait says nothing about how fast a full engine is.
            self.last_finish = None;
        }
    }

    /// Keeps the smoothed time between two ends, which tells refused callers when a place may be free.
    fn count_end(&mut self) {
        let stats = &self.shared.stats;
        Stats::add(&stats.finished, 1);
        let now = Instant::now();
        if let Some(last) = self.last_finish.replace(now) {
            let interval = now.duration_since(last).as_micros() as u64;
            let smoothed = match Stats::get(&stats.finish_interval_us) {
                0 => interval,
                old => (7 * old + interval) / 8,
            };
            Stats::set(&stats.finish_interval_us, smoothed as usize);
        }
    }

    fn gauges(&self) {
        let stats = &self.shared.stats;
        Stats::set(&stats.running, self.running.len());
        Stats::set(&stats.pages_used, self.pages.used());
        self.shared.set_waiting(self.waiting.len());
    }
}

/// A preempted request finds pages that it made itself: these are not the caller's savings.
fn count_hit(stats: &Stats, sequence: &mut Sequence, hit: usize) {
    if sequence.preempted {
        return;
    }
    Stats::add(&stats.prefix_hit_tokens, hit);
    if let Work::Generate(generation) = &mut sequence.work {
        generation.cached_tokens.fetch_add(hit as u32, Ordering::Relaxed);
    }
}

/// Adds as many of a sequence's remaining rows as there is room for, up to a page's end where it goes on later: only full
/// pages can be shared.
fn push_rows(batch: &mut Batch, sequence: &mut Sequence, room: usize) {
    let mut end = sequence.tokens.len();
    if sequence.remaining() > room {
        end = sequence.computed + room;
        let page_end = end - end % PAGE_TOKENS;
        if page_end > sequence.computed {
            end = page_end;
        }
    }
    let rows = end - sequence.computed;
    batch.sequence(&sequence.pages[..end.div_ceil(PAGE_TOKENS)]);
    sequence.rows = (batch.rows(), rows);
    for position in sequence.computed..end {
        let want = match &sequence.work {
            Work::Embed(pooling) if position >= pooling.pooled => Want::Hidden,
            Work::Generate(generation) if position + 1 == sequence.tokens.len() && generation.max_tokens > 0 => {
                Want::Logits
            }
            _ => Want::Nothing,
        };
        batch.push(sequence.tokens[position], position as u32, want);
    }
}

/// What a row of logits led to.
enum Next {
    Token { token: u32, last: bool },
    Stop,
    Failed(String),
}

impl Generation {
    /// Draws the next token and sends it.
    fn next(&mut self, logits: &mut [f32], sampler: &mut Sampler, mask: &mut TokenMask) -> Next {
        if let Some(constraint) = &mut self.constraint {
            mask.clear();
            if let Err(error) = constraint.allowed(mask) {
                return Next::Failed(error.to_string());
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
            Drawn::Nothing => return Next::Stop,
            Drawn::NotANumber => {
                return Next::Failed(
                    "the model's scores are not numbers (NaN or infinite); its weights are damaged, verify the model"
                        .to_owned(),
                );
            }
        };
        if let Some(constraint) = &mut self.constraint
            && let Err(error) = constraint.accept(token)
        {
            return Next::Failed(error.to_string());
        }
        if self.stop_tokens.contains(&token) {
            return Next::Stop;
        }
        self.generated += 1;
        self.seen.generated(token);
        // Room was checked before the row was scheduled; a closed channel is noticed at the next turn.
        let _ = self.events.try_send(Event::Token { token, logprob });
        Next::Token { token, last: self.generated >= self.max_tokens }
    }
}

impl Pooling {
    fn add(&mut self, position: usize, hidden: &[f32]) {
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

    fn reply(&mut self) {
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

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use falaj_kernels::{KvFormat, Pool};
    use falaj_model::synthetic::tiny_config;
    use tokio::sync::mpsc;

    use super::*;
    use crate::request::{EngineOptions, Sampling};
    use crate::sampling::Seen;

    fn scheduler(pages: usize) -> Scheduler {
        let model = Arc::new(falaj_model::synthetic(&tiny_config(50, 256), 0).unwrap());
        Scheduler {
            sampler: Sampler::new(model.vocab_size(), *model.ops()),
            mask: TokenMask::new(model.vocab_size()),
            shared: Arc::new(Shared::new(&EngineOptions::default())),
            workspace: Workspace::new(&model, Pool::new(1), 32, 4).unwrap(),
            cache: KvCache::new(model.config(), KvFormat::F16, pages).unwrap(),
            pages: Pages::new(pages, true),
            max_sequences: 3,
            waiting: VecDeque::new(),
            running: Vec::new(),
            batch: Batch::default(),
            last_finish: None,
            coming: Vec::new(),
            model,
        }
    }

    /// A reader runs on another thread: it may make room between the moment when pages are given and the one when rows
    /// are chosen. A sequence that was passed over for pages must not run then.
    #[test]
    fn a_reader_that_catches_up_in_mid_turn_waits_for_its_page() {
        let mut scheduler = scheduler(4);
        let (sender, mut events) = mpsc::channel(2);
        sender.try_send(Event::Token { token: 1, logprob: None }).unwrap();
        let generation = Generation {
            sampling: Sampling::default(),
            max_tokens: 100,
            min_tokens: 0,
            stop_tokens: Vec::new(),
            constraint: None,
            logprobs: None,
            seen: Seen::default(),
            generated: 1,
            cached_tokens: Arc::default(),
            events: sender,
        };
        // A full page is computed, and the next token would begin another.
        let mut sequence = Sequence::new(1, vec![1; PAGE_TOKENS + 1], 0, Work::Generate(Box::new(generation)));
        sequence.pages.extend(scheduler.pages.allocate());
        sequence.computed = PAGE_TOKENS;
        scheduler.running.push(sequence);

        scheduler.extend_pages();
        events.try_recv().unwrap();
        scheduler.choose_rows();
        assert!(scheduler.batch.is_empty());

        scheduler.fill();
        assert_eq!(scheduler.batch.rows(), 1);
    }
}
