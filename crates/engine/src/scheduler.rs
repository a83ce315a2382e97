//! The engine thread: each turn takes in what arrived, drops what nobody waits for, admits, plans one step (`plan.rs`), runs it,
//! and hands out what came of it. Time decides how much of a step prompts get, never what comes of a row.

mod admit;
mod plan;
mod prefixes;
mod propose;
mod score;
mod turns;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use falaj_kernels::Ops;
use falaj_model::{Batch, KvCache, Model, PAGE_TOKENS, Workspace};

use crate::budget::Budget;
use crate::fair::{Cost, Fair};
use crate::generation::Ending;
use crate::pages::{Pages, Parent};
use crate::prefix_store::PrefixStore;
use crate::request::{EngineOptions, FinishReason};
use crate::sequence::{Sequence, Work};
use crate::shared::{Shared, Stop, locks_held, most_waiting, take_lock_time};
use crate::speculation::{Draft, Origin, Speculation};
use crate::stats::Stats;
use crate::trace::StepTrace;
use turns::Turns;

/// Everything that the engine thread owns.
pub(crate) struct Scheduler {
    model: Arc<Model>,
    shared: Arc<Shared>,
    workspace: Workspace,
    cache: KvCache,
    pages: Pages,
    budget: Budget,
    max_sequences: usize,
    waiting: VecDeque<Sequence>,
    fair: Fair,
    /// Requests that wait, by tenant: for [`Shared::set_waiting`].
    waiting_by: Vec<(u64, usize)>,
    /// In order of arrival.
    running: Vec<Sequence>,
    batch: Batch,
    turns: Turns,
    speculation: Speculation,
    speculates: bool,
    draft: Option<Draft>,
    last_finish: Option<Instant>,
    /// Of this thread and the pool's, when a step was charged last.
    cpu_time: Duration,
    store: Option<PrefixStore>,
    /// Sequences that have ended and whose pages stay.
    pinned: Vec<Sequence>,
    unpinned: Vec<u64>,
    /// Pages that the step being planned will make known.
    coming: Vec<(Parent, [u32; PAGE_TOKENS])>,
    /// The places in `running` of those that read their prompts.
    prompts: Vec<usize>,
    /// The step being planned.
    step: StepTrace,
    #[cfg(test)]
    proposer: Option<tests::Proposer>,
}

impl Scheduler {
    pub(crate) fn new(
        model: Arc<Model>,
        shared: Arc<Shared>,
        workspace: Workspace,
        cache: KvCache,
        context_pages: usize,
        store: Option<PrefixStore>,
        draft: Option<Draft>,
        options: &EngineOptions,
    ) -> Self {
        let max_sequences = options.max_sequences;
        let pages = cache.pages();
        // Sequences that share pages name them each.
        let tables = (max_sequences + 1).saturating_mul(context_pages.min(pages));
        let ops: Ops = *model.ops();
        Self {
            budget: Budget::new(options.step_tokens, options.step_ms, options.crowd_step_ms),
            turns: Turns::new(model.vocab_size(), ops, options.threads, max_sequences),
            batch: Batch::with_capacity(workspace.max_rows(), tables),
            pages: Pages::new(pages, options.prefix_cache),
            waiting: VecDeque::with_capacity(most_waiting(options)),
            fair: Fair::new(most_waiting(options)),
            waiting_by: Vec::new(),
            running: Vec::with_capacity(max_sequences),
            coming: Vec::with_capacity(max_sequences),
            prompts: Vec::with_capacity(max_sequences),
            step: StepTrace::default(),
            last_finish: None,
            cpu_time: Duration::ZERO,
            speculation: Speculation::default(),
            speculates: options.speculation,
            draft,
            store,
            pinned: Vec::new(),
            unpinned: Vec::new(),
            max_sequences,
            model,
            shared,
            workspace,
            cache,
            #[cfg(test)]
            proposer: None,
        }
    }

    /// Runs until it is told to stop, and, when draining, has nothing left to do.
    pub(crate) fn run(mut self) {
        let mut pause = SHORTEST_PAUSE;
        self.cpu_time = self.workspace.pool().cpu_time();
        loop {
            let idle = self.waiting.is_empty() && self.running.is_empty();
            let stop = self.shared.collect(&mut self.waiting, &mut self.unpinned, idle);
            let begun = Instant::now();
            if stop == Stop::Now {
                self.fail_all("the engine is shutting down; send the request again later");
            }
            self.unpin();
            self.take_found();
            self.drop_abandoned();
            if stop != Stop::No && self.waiting.is_empty() && self.running.is_empty() {
                self.release_pinned();
                self.store_everything();
                self.gauges();
                return;
            }
            self.admit();
            self.fill();
            self.gauges();
            if self.batch.is_empty() {
                if self.preempt_paused() {
                    continue;
                }
                // Only readers that are behind: look again soon, and more seldom the longer it lasts.
                self.shared.wait(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
            pause = SHORTEST_PAUSE;
            self.step.choose = begun.elapsed();
            self.step();
            self.remove_ended();
            self.gauges();
            self.step.locked = take_lock_time();
            self.shared.trace.record(&self.step);
        }
    }

    fn drop_abandoned(&mut self) {
        let stats = &self.shared.stats;
        let mut drop_from = |sequence: &mut Sequence| {
            let (abandoned, left) = sequence.drop_abandoned();
            if abandoned {
                sequence.release(&mut self.pages);
            }
            Stats::add(&stats.cancelled, left);
            !abandoned
        };
        self.waiting.retain_mut(&mut drop_from);
        self.running.retain_mut(drop_from);
    }

    fn step(&mut self) {
        let begun = Instant::now();
        self.step.step += 1;
        self.step.locks_in_forward = locks_held();
        let forward = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            self.shared.injected_fault();
            self.model.forward(&mut self.workspace, &mut self.cache, &self.batch)
        }));
        self.step.forward = begun.elapsed();
        self.charge();
        let failure = match forward {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic_message(&*panic)),
        };
        match failure {
            None => self.advance(),
            Some(cause) => {
                // Which pages were half written is unknown, so none is offered to others.
                self.pages.forget_everything();
                let message = format!("the forward pass failed: {cause}; this is a bug, please report it");
                for sequence in self.running.iter_mut().filter(|sequence| sequence.rows.count > 0) {
                    fail(&self.shared.stats, sequence, &message);
                }
                self.pin_again();
            }
        }
        let took = begun.elapsed();
        self.step.sample = took.saturating_sub(self.step.forward);
        let (prompt_rows, decode_rows) = (self.step.prompt_rows as usize, self.step.decode_rows as usize);
        self.budget.observe(decode_rows, prompt_rows, took);
        if prompt_rows == 0 {
            self.speculation.stepped(decode_rows, took);
        }
        let stats = &self.shared.stats;
        Stats::add(&stats.steps, 1);
        Stats::add(&stats.batch_rows, self.batch.rows());
        Stats::add(&stats.prompt_rows, prompt_rows);
        Stats::add(&stats.step_us, (self.step.choose + took).as_micros() as usize);
    }

    /// Splits the CPU time since the last step by the rows of this one, to the last nanosecond. Before tokens come out: who has
    /// read one may look at once.
    fn charge(&mut self) {
        let now = self.workspace.pool().cpu_time();
        let mut left = now.saturating_sub(std::mem::replace(&mut self.cpu_time, now)).as_nanos();
        let with_rows = || self.running.iter().filter(|sequence| sequence.rows.count > 0);
        let mut rows: usize = with_rows().map(|sequence| sequence.rows.count).sum();
        for sequence in with_rows() {
            let part = left * sequence.rows.count as u128 / rows as u128;
            (left, rows) = (left - part, rows - sequence.rows.count);
            if let Some(cpu) = sequence.cpu() {
                cpu.add(part as u64);
            }
        }
    }

    /// Takes what the step computed.
    fn advance(&mut self) {
        self.share_prompts();
        for sequence in self.running.iter_mut().filter(|sequence| sequence.rows.outputs > 0) {
            match std::mem::replace(&mut sequence.work, Work::Away) {
                Work::Generate(generation) => self.turns.add(generation, sequence.rows),
                work => sequence.work = work,
            }
        }
        self.turns.draw(&self.workspace);
        self.score();
        let mut drawn = 0;
        for number in 0..self.running.len() {
            let sequence = &mut self.running[number];
            if matches!(sequence.work, Work::Away)
                && let Some(generation) = self.turns.take(drawn)
            {
                sequence.work = Work::Generate(generation);
                drawn += 1;
            }
            if sequence.rows.count > 0 {
                self.advance_one(number);
            }
        }
    }

    /// Sequences whose prompt this step completes and that stand for several choices become as many sequences, which share
    /// its pages and the row of logits.
    fn share_prompts(&mut self) {
        let mut number = 0;
        while let Some(sequence) = self.running.get_mut(number) {
            number += 1;
            let rows = sequence.rows;
            let Some(generation) = sequence.generation() else { continue };
            if rows.outputs == 0 || generation.siblings.is_empty() {
                continue;
            }
            let siblings = std::mem::take(&mut generation.siblings);
            for (place, sibling) in siblings.into_iter().enumerate() {
                let leader = &self.running[number - 1];
                let id = leader.id + 1 + place as u64;
                sibling.count_hit(leader.prompt_tokens);
                if self.running.len() < self.max_sequences {
                    let fork = leader.fork(id, Box::new(sibling), &mut self.pages);
                    self.running.insert(number + place, fork);
                } else {
                    // It finds the full pages in the prefix cache when there is a place.
                    let mut tokens = Vec::with_capacity(leader.tokens.len() + sibling.max_tokens);
                    tokens.extend_from_slice(&leader.tokens);
                    let later = Sequence::new(id, tokens, leader.salt, Work::Generate(Box::new(sibling)));
                    let mut later = later.with(leader.tenant, leader.adapter.clone());
                    later.account = leader.account;
                    later.preempted = true;
                    self.waiting.push_front(later);
                }
            }
        }
    }

    /// Takes what the step computed, and what was drawn from it, for one sequence.
    fn advance_one(&mut self, number: usize) {
        let stats = &self.shared.stats;
        let sequence = &mut self.running[number];
        let rows = sequence.rows;
        let complete = sequence.computed + sequence.turn >= sequence.tokens.len();
        let first_position = sequence.computed;
        match &mut sequence.work {
            Work::Embed(pooling) => {
                for (row, position) in (rows.first..rows.first + rows.count).zip(first_position..) {
                    pooling.add(position, self.workspace.hidden(row).unwrap_or_default());
                }
                sequence.computed += rows.count;
                if complete {
                    pooling.reply();
                    sequence.ended = true;
                    self.count_end(1);
                }
            }
            Work::Generate(generation) if rows.outputs > 0 => {
                Stats::add(&stats.generated_tokens, generation.drawn.len());
                self.fair.charge(sequence.account, generation.drawn.len(), Cost::Generated);
                Stats::add(&stats.proposed_rows, rows.outputs - 1);
                Stats::add(&stats.accepted_rows, generation.verified.saturating_sub(1));
                // Rows after a proposal that was wrong count for nothing: their slots are written again.
                sequence.computed += rows.count - rows.outputs + generation.verified;
                sequence.tokens.extend_from_slice(&generation.drawn);
                if let Some(origin) = generation.origin.take() {
                    let accepted = generation.verified.saturating_sub(1);
                    if origin == Origin::Draft {
                        Stats::add(&stats.draft_rows, rows.outputs - 1);
                        Stats::add(&stats.draft_accepted_rows, accepted);
                    }
                    // Proposals behind the end were never looked at.
                    let seen = if generation.ending.is_some() { accepted } else { rows.outputs - 1 };
                    self.speculation.verified(origin, seen, accepted);
                }
                generation.proposed.clear();
                match generation.ending.take() {
                    Some(Ending::Failed(message)) => fail(stats, sequence, &message),
                    Some(Ending::Finished(reason)) => {
                        sequence.finish(reason);
                        self.publish(number);
                        self.count_end(1);
                    }
                    None => self.publish(number),
                }
            }
            Work::Generate(_) => {
                sequence.computed += rows.count;
                // Nothing was asked for but the prompt.
                let requests = sequence.requests();
                self.publish(number);
                if complete {
                    self.running[number].finish(FinishReason::Length);
                    self.count_end(requests);
                }
            }
            Work::Score(scoring) => {
                sequence.computed += rows.count;
                if let Some(message) = scoring.failure.take() {
                    return fail(stats, sequence, &message);
                }
                if complete {
                    scoring.reply(Ok(()));
                    sequence.ended = true;
                }
                self.publish(number);
                if complete {
                    self.count_end(1);
                }
            }
            Work::Away => {}
        }
    }

    /// Makes full pages known, and gives those back that lie behind the window.
    fn publish(&mut self, number: usize) {
        let sequence = &mut self.running[number];
        sequence.publish(&mut self.pages);
        if let Some(window) = self.model.config().sliding_window {
            sequence.give_back(window, &mut self.pages);
        }
    }

    fn fail_all(&mut self, message: &str) {
        for mut sequence in self.waiting.drain(..).chain(self.running.drain(..)) {
            sequence.release(&mut self.pages);
            fail(&self.shared.stats, &mut sequence, message);
        }
    }

    fn remove_ended(&mut self) {
        while let Some(place) = self.running.iter().position(|sequence| sequence.ended) {
            let mut ended = self.running.remove(place);
            match ended.pin {
                true => self.keep_pinned(ended),
                false => ended.release(&mut self.pages),
            }
        }
        if self.waiting.is_empty() && self.running.is_empty() {
            // The next request's wait says nothing about how fast a full engine is.
            self.last_finish = None;
        }
    }

    /// Keeps the smoothed time between two ends, which tells refused callers when a place may be free.
    fn count_end(&mut self, requests: usize) {
        let stats = &self.shared.stats;
        Stats::add(&stats.finished, requests);
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

    fn gauges(&mut self) {
        let stats = &self.shared.stats;
        Stats::set(&stats.running, self.running.len());
        Stats::set(&stats.pages_used, self.pages.used());
        self.fair.requests(&self.waiting, &mut self.waiting_by);
        self.shared.set_waiting(&mut self.waiting_by);
    }
}

fn fail(stats: &Stats, sequence: &mut Sequence, message: &str) {
    Stats::add(&stats.failed, sequence.requests());
    sequence.fail(message);
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
