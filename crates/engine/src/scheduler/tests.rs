//! What cannot be seen through the public API: races within a turn, locks, proposals.

mod fairness;

use std::sync::{Arc, Mutex, PoisonError};

use falaj_kernels::{KvFormat, Pool};
use falaj_model::synthetic::tiny_config;
use falaj_model::{KvCache, Workspace};
use tokio::sync::mpsc;

use super::*;
use crate::generation::Generation;
use crate::reply::CpuTime;
use crate::request::{Event, Sampling};
use crate::sampling::Seen;

/// Adds proposals for what follows the tokens.
pub(super) type Proposer = fn(&[u32], &mut Vec<u32>);

fn scheduler(pages: usize) -> Scheduler {
    let model = Arc::new(falaj_model::synthetic(&tiny_config(50, 256), 0).unwrap());
    let options = EngineOptions { max_sequences: 3, speculation: false, ..EngineOptions::default() };
    let shared = Arc::new(Shared::new(&options));
    let workspace = Workspace::new(&model, Pool::new(1), 32, 32).unwrap();
    let cache = KvCache::new(model.config(), KvFormat::F16, pages).unwrap();
    Scheduler::new(model, shared, workspace, cache, 16, None, None, &options)
}

fn generation(sampling: Sampling, max_tokens: usize, events: mpsc::Sender<Event>) -> Box<Generation> {
    Box::new(Generation {
        sampling,
        max_tokens,
        min_tokens: 0,
        stop_tokens: Vec::new(),
        constraint: None,
        logprobs: Some(1),
        seen: Seen::default(),
        generated: 0,
        cached_tokens: Arc::default(),
        cpu: CpuTime::default(),
        events,
        siblings: Vec::new(),
        proposed: Vec::new(),
        origin: None,
        wanted: 0,
        drawn: Vec::new(),
        verified: 0,
        ending: None,
    })
}

/// A reader runs on another thread: it may make room between the moment when rows are planned and the one when pages are
/// given. A sequence that was passed over must not run then.
#[test]
fn a_reader_that_catches_up_in_mid_turn_waits_for_the_next() {
    let mut scheduler = scheduler(4);
    let (sender, mut events) = mpsc::channel(2);
    sender.try_send(Event::Token { token: 1, logprob: None }).unwrap();
    let mut generation = generation(Sampling::default(), 100, sender);
    generation.generated = 1;
    // A full page is computed, and the next token would begin another.
    let mut sequence = Sequence::new(1, vec![1; PAGE_TOKENS + 1], 0, Work::Generate(generation));
    sequence.pages.extend(scheduler.pages.allocate());
    sequence.computed = PAGE_TOKENS;
    scheduler.running.push(sequence);

    scheduler.plan();
    events.try_recv().unwrap();
    scheduler.extend_pages();
    scheduler.push_rows();
    assert!(scheduler.batch.is_empty());

    scheduler.fill();
    assert_eq!(scheduler.batch.rows(), 1);
}

/// Runs one request to its end on this thread, greedily where `seed` is 0; returns what was sent and the number of steps.
fn generate(scheduler: &mut Scheduler, prompt: &[u32], seed: u64) -> (Vec<(u32, u32)>, u64) {
    let (sender, mut events) = mpsc::channel(64);
    let temperature = if seed == 0 { 0.0 } else { 0.9 };
    let sampling = Sampling { temperature, top_p: 0.95, seed, ..Sampling::default() };
    let generation = generation(sampling, 24, sender);
    let mut tokens = prompt.to_vec();
    tokens.reserve_exact(24);
    scheduler.waiting.push_back(Sequence::new(1, tokens, 0, Work::Generate(generation)));
    let before = scheduler.step.step;
    let mut sent = Vec::new();
    loop {
        scheduler.admit();
        scheduler.fill();
        scheduler.step();
        scheduler.remove_ended();
        while let Ok(event) = events.try_recv() {
            match event {
                Event::Token { token, logprob } => sent.push((token, logprob.unwrap().logprob.to_bits())),
                Event::Done { .. } => return (sent, scheduler.step.step - before),
                Event::Failed(message) => panic!("{message}"),
            }
        }
    }
}

/// A draft model that is the model itself is right wherever tokens are greedy; a text that repeats itself proposes its own end.
#[test]
fn drafts_and_lookups_save_steps_and_change_nothing() {
    let prompt: Vec<u32> = (0..21).collect();
    let (plain, plain_steps) = generate(&mut scheduler(8), &prompt, 0);
    let mut drafting = scheduler(8);
    let model = Arc::clone(&drafting.model);
    drafting.draft = Some(Draft::new(model, Arc::new(Pool::new(1)), 3, 256, 1 << 20).unwrap());
    (drafting.speculates, drafting.speculation.always) = (true, true);
    let (sent, steps) = generate(&mut drafting, &prompt, 0);
    assert_eq!(sent, plain);
    assert!(2 * steps < plain_steps, "{steps} of {plain_steps}");

    let answer: Vec<u32> = plain.iter().map(|(token, _)| *token).collect();
    let repeated: Vec<u32> = prompt.iter().chain(&answer).chain(&prompt).copied().collect();
    let (plain, _) = generate(&mut scheduler(16), &repeated, 5);
    let mut looking = scheduler(16);
    (looking.speculates, looking.speculation.always) = (true, true);
    assert_eq!(generate(&mut looking, &repeated, 5).0, plain);
    assert!(Stats::get(&looking.shared.stats.proposed_rows) > 0);
}

/// What the request below says without proposals: where the proposer of the test knows it from.
static ANSWER: Mutex<Vec<u32>> = Mutex::new(Vec::new());

#[test]
fn proposals_save_steps_and_change_nothing() {
    let prompt: Vec<u32> = (0..21).collect();
    let (plain, plain_steps) = generate(&mut scheduler(8), &prompt, 5);
    assert_eq!((plain.len(), plain_steps), (24, 24));
    *ANSWER.lock().unwrap_or_else(PoisonError::into_inner) =
        prompt.iter().copied().chain(plain.iter().map(|(token, _)| *token)).collect();

    // Always right; right twice, then wrong; always wrong.
    let propose_right = |tokens: &[u32], proposed: &mut Vec<u32>| {
        let answer = ANSWER.lock().unwrap_or_else(PoisonError::into_inner);
        proposed.extend(answer[tokens.len()..].iter().take(7));
    };
    let propose_some = |tokens: &[u32], proposed: &mut Vec<u32>| {
        let answer = ANSWER.lock().unwrap_or_else(PoisonError::into_inner);
        proposed.extend(answer[tokens.len()..].iter().take(7));
        if let Some(third) = proposed.get_mut(2) {
            *third = (*third + 1) % 50;
        }
    };
    let propose_wrong = |tokens: &[u32], proposed: &mut Vec<u32>| {
        let answer = ANSWER.lock().unwrap_or_else(PoisonError::into_inner);
        proposed.extend(answer[tokens.len()..].iter().take(7).map(|token| (token + 1) % 50));
    };
    let proposers: [(Proposer, u64); 3] = [(propose_right, 4), (propose_some, 9), (propose_wrong, 24)];
    for (proposer, steps) in proposers {
        let mut proposing = scheduler(8);
        proposing.proposer = Some(proposer);
        let (sent, took) = generate(&mut proposing, &prompt, 5);
        assert_eq!((&sent, took), (&plain, steps));
        assert_eq!(proposing.pages.used(), 0);
        // Nothing of a wrong proposal was offered to others.
        proposing.proposer = None;
        let mut longer = ANSWER.lock().unwrap_or_else(PoisonError::into_inner).clone();
        longer.push(3);
        let again = generate(&mut proposing, &longer, 9).0;
        assert_eq!(again, generate(&mut scheduler(8), &longer, 9).0);
    }
}

#[test]
fn a_lock_held_across_a_step_would_be_seen() {
    let mut scheduler = scheduler(8);
    let shared = Arc::clone(&scheduler.shared);
    scheduler.step();
    assert_eq!(scheduler.step.locks_in_forward, 0);
    let guard = shared.lock();
    scheduler.step();
    assert_eq!(scheduler.step.locks_in_forward, 1);
    drop(guard);
    scheduler.step();
    assert_eq!(scheduler.step.locks_in_forward, 0);
    assert!(take_lock_time() > Duration::ZERO);
}

/// Six prompts of one beginning: it is computed once, and each of the others waits for it instead of taking pages for it.
#[test]
fn a_common_beginning_is_computed_once() {
    let mut scheduler = scheduler(40);
    let (sender, _events) = mpsc::channel(64);
    for id in 1..=3 {
        let mut tokens: Vec<u32> = (0..100).map(|i| i % 50).collect();
        tokens.push(id as u32);
        let work = Work::Generate(generation(Sampling::default(), 1, sender.clone()));
        scheduler.waiting.push_back(Sequence::new(id, tokens, 0, work));
    }
    scheduler.admit();
    assert_eq!(scheduler.running.len(), 3);
    let mut rows = 0;
    while !scheduler.running.is_empty() {
        scheduler.fill();
        rows += scheduler.batch.rows();
        scheduler.step();
        scheduler.remove_ended();
    }
    assert_eq!(rows, 101 + 2 * 5);
}

/// A long prompt does not hold up short ones that come behind it, nor they it.
#[test]
fn prompts_share_a_step_and_none_starves() {
    let mut scheduler = scheduler(40);
    let (sender, _events) = mpsc::channel(64);
    for (id, len) in [(1, 200), (2, 30), (3, 12)] {
        let tokens: Vec<u32> = (0..len).map(|i| (i * i + id as u32) % 50).collect();
        let work = Work::Generate(generation(Sampling::default(), 1, sender.clone()));
        scheduler.waiting.push_back(Sequence::new(id, tokens, 0, work));
    }
    scheduler.admit();
    scheduler.fill();
    let turns: Vec<_> = scheduler.running.iter().map(|sequence| sequence.turn).collect();
    // Of 32 rows: the shorter of the short ones is done, the next begins, and the long one has its half.
    assert_eq!(turns, [16, 4, 12]);
}

/// Of equals the first is done first: sharing the step would make all of them late.
#[test]
fn equal_prompts_are_read_in_order() {
    let mut scheduler = scheduler(40);
    let (sender, _events) = mpsc::channel(64);
    for id in 1..=3 {
        let tokens: Vec<u32> = (0..48).map(|i| (i * i + id as u32) % 50).collect();
        let work = Work::Generate(generation(Sampling::default(), 1, sender.clone()));
        scheduler.waiting.push_back(Sequence::new(id, tokens, 0, work));
    }
    scheduler.admit();
    let turns = |scheduler: &mut Scheduler| {
        scheduler.fill();
        let turns: Vec<_> = scheduler.running.iter().map(|sequence| sequence.turn).collect();
        scheduler.step();
        turns
    };
    assert_eq!(turns(&mut scheduler), [32, 0, 0]);
    assert_eq!(turns(&mut scheduler), [16, 16, 0]);
}

fn admitted(scheduler: &mut Scheduler, prompts: &[&[u32]]) -> Vec<u64> {
    let (sender, events) = mpsc::channel(64);
    for (id, prompt) in prompts.iter().enumerate() {
        let work = Work::Generate(generation(Sampling::default(), 1, sender.clone()));
        scheduler.waiting.push_back(Sequence::new(100 + id as u64, prompt.to_vec(), 0, work));
    }
    drop(events);
    let mut order = Vec::new();
    scheduler.max_sequences = 1;
    while !scheduler.waiting.is_empty() {
        scheduler.admit();
        order.extend(scheduler.running.iter().map(|sequence| sequence.id - 100));
        while !scheduler.running.is_empty() {
            scheduler.fill();
            scheduler.step();
            scheduler.remove_ended();
        }
    }
    order
}

#[test]
fn the_longest_known_prefix_comes_first_within_bounds() {
    let known: Vec<u32> = (0..40).collect();
    let mut scheduler = scheduler(40);
    assert_eq!(admitted(&mut scheduler, &[&known]), [0]);
    let other: Vec<u32> = (0..40).rev().collect();
    assert_eq!(admitted(&mut scheduler, &[&other[..33], &known[..17], &known]), [2, 1, 0]);
    // One that nobody knows is overtaken so often and no more.
    let mut prompts: Vec<&[u32]> = vec![&other[5..30]];
    prompts.extend([&known[..]; 30]);
    let place = admitted(&mut scheduler, &prompts).iter().position(|id| *id == 0);
    assert_eq!(place, Some(16));
}

#[test]
fn a_step_is_charged_by_rows_and_to_the_last_nanosecond() {
    let mut scheduler = scheduler(4);
    let mut cpu = Vec::new();
    for (id, count) in [(1, 5), (2, 0), (3, 2)] {
        let (sender, _) = mpsc::channel(2);
        let generation = generation(Sampling::default(), 100, sender);
        cpu.push(generation.cpu.clone());
        let mut sequence = Sequence::new(id, vec![1], 0, Work::Generate(generation));
        sequence.rows.count = count;
        scheduler.running.push(sequence);
    }
    // All that this thread has ever done.
    scheduler.charge();
    let spent = scheduler.cpu_time.as_nanos() as u64;
    let parts: Vec<u64> = cpu.iter().map(CpuTime::ns).collect();
    assert!(spent > 0);
    assert_eq!(parts, [(u128::from(spent) * 5 / 7) as u64, 0, spent - (u128::from(spent) * 5 / 7) as u64]);
    // And from there on what comes on top.
    scheduler.charge();
    assert_eq!(cpu.iter().map(CpuTime::ns).sum::<u64>(), scheduler.cpu_time.as_nanos() as u64);
}
