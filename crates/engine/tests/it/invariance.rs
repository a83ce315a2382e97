//! A request's tokens and the bits of its log-probabilities: the same alone, in company, on more threads, in other chunks,
//! with a cold and a warm prefix cache, and after it was preempted.

use std::sync::Arc;

use falaj_engine::{Engine, EngineOptions, Request, Sampling};
use falaj_model::{Config, KvCache, Model, synthetic};

use crate::run::{MIXTURE, MODEL, Outcome, count, end, options, prompt, read, request, run, start};

/// Request `number` of a varied crowd: greedy and random, with penalties, short and long.
fn varied(number: u32) -> Request {
    let random = Sampling {
        temperature: 0.8,
        top_k: (number.is_multiple_of(2)).then_some(40),
        top_p: 0.95,
        min_p: if number.is_multiple_of(5) { 0.01 } else { 0.0 },
        presence_penalty: if number % 4 == 1 { 0.5 } else { 0.0 },
        repetition_penalty: if number % 4 == 3 { 1.2 } else { 1.0 },
        seed: u64::from(number),
        ..Sampling::default()
    };
    Request {
        sampling: if number.is_multiple_of(3) { Sampling::default() } else { random },
        logprobs: Some(3),
        stop_tokens: vec![5],
        min_tokens: 4,
        ..request(prompt(number, 3 + (number as usize * 13) % 90), 20 + number % 30)
    }
}

fn alone(model: &Arc<Model>, number: u32) -> Outcome {
    let engine = start(model, options());
    let outcome = run(&engine, varied(number));
    end(&engine);
    outcome
}

fn together(engine: &Engine, numbers: impl Iterator<Item = u32>) -> Vec<Outcome> {
    let streams: Vec<_> = numbers.map(|number| engine.submit(varied(number)).unwrap()).collect();
    streams.into_iter().map(read).collect()
}

#[test]
fn alone_and_among_thirty_two() {
    for model in [&*MODEL, &*MIXTURE] {
        let engine = start(model, EngineOptions { max_sequences: 32, threads: 2, ..options() });
        let crowd = together(&engine, 0..32);
        // Again, on a warm prefix cache.
        let warm = together(&engine, 0..32);
        end(&engine);
        for number in 0..32 {
            let alone = alone(model, number);
            assert!(!alone.tokens.is_empty() && alone.logprobs.len() == alone.tokens.len());
            assert_eq!(crowd[number as usize].answer(), alone.answer(), "request {number} in company");
            assert_eq!(warm[number as usize].answer(), alone.answer(), "request {number} with a warm cache");
        }
    }
}

#[test]
fn threads_and_chunks() {
    for model in [&*MODEL, &*MIXTURE] {
        let expected: Vec<_> = [7, 22, 29].into_iter().map(|number| alone(model, number).answer()).collect();
        for (threads, step_tokens, prefix_cache) in
            [(1, 1, true), (2, 7, true), (2, 16, false), (1, 33, true), (3, 512, false)]
        {
            let engine =
                start(model, EngineOptions { threads, step_tokens, prefix_cache, max_sequences: 2, ..options() });
            let outcomes = together(&engine, [7, 22, 29].into_iter());
            end(&engine);
            for (outcome, expected) in outcomes.iter().zip(&expected) {
                assert_eq!(outcome.answer(), *expected, "{threads} threads, steps of {step_tokens}");
            }
        }
    }
}

#[test]
fn cold_and_warm_prefix() {
    let engine = start(&MODEL, options());
    let long = || Request { logprobs: Some(5), ..request(prompt(3, 100), 12) };
    let cold = run(&engine, long());
    assert_eq!(cold.usage().cached_tokens, 0);
    let warm = run(&engine, long());
    // Six full pages of 16; the seventh is not full.
    assert_eq!(warm.usage().cached_tokens, 96);
    assert_eq!(warm.answer(), cold.answer());
    // Another tenant shares nothing, and gets the same answer.
    let salted = run(&engine, Request { cache_salt: 9, ..long() });
    assert_eq!(salted.usage().cached_tokens, 0);
    assert_eq!(salted.answer(), cold.answer());
    // The last token is always computed, also when all pages are known.
    let whole = run(&engine, request(prompt(3, 96), 1));
    assert_eq!(whole.usage().cached_tokens, 80);
    // A conversation goes on from prompt and answer.
    let mut next = prompt(3, 100);
    next.extend(&cold.tokens);
    next.extend([1, 2, 3, 4, 5]);
    let expected = run(&start(&MODEL, options()), request(next.clone(), 6));
    let continued = run(&engine, request(next, 6));
    assert_eq!(continued.usage().cached_tokens, 96);
    assert_eq!(continued.answer(), expected.answer());
    end(&engine);
}

/// Requests with one prompt (n > 1) compute it once, also when they arrive together.
#[test]
fn one_prompt_is_computed_once() {
    let engine = start(&MODEL, options());
    let choice = |seed| Request {
        sampling: Sampling { temperature: 1.0, seed, ..Sampling::default() },
        ..request(prompt(8, 100), 10)
    };
    let streams: Vec<_> = (0..4).map(|seed| engine.submit(choice(seed)).unwrap()).collect();
    let outcomes: Vec<_> = streams.into_iter().map(read).collect();
    let cached: Vec<_> = outcomes.iter().map(|outcome| outcome.usage().cached_tokens).collect();
    assert_eq!(cached, [0, 96, 96, 96]);
    assert_ne!(outcomes[0].tokens, outcomes[1].tokens);
    assert_eq!(outcomes[2].tokens, run(&engine, choice(2)).tokens);
    end(&engine);
}

#[test]
fn preemption() {
    // Nobody reads before all are queued, and a channel holds 64 tokens. So when reading begins, the first sequence has at
    // least 56 steps to go, at 5 pages or more in the end (as many as a window of 72 needs); the second is admitted beside it
    // and needs its fourth page in step 45. That is one more than there are, whatever runs when.
    const TOKENS: u32 = 120;
    const PAGES: usize = 8;
    let long = |number| Request { logprobs: Some(2), ..request(prompt(number, 4), TOKENS) };
    let config = Config { sliding_window: Some(72), ..MIXTURE.config().clone() };
    let mixture = Arc::new(synthetic(&config, 2).unwrap());
    for model in [&*MODEL, &mixture] {
        let cache_bytes = PAGES * KvCache::page_bytes(model.config(), falaj_kernels::KvFormat::F16);
        let engine = start(model, EngineOptions { cache_bytes, threads: 2, speculation: false, ..options() });
        let streams: Vec<_> = (0..8).map(|number| engine.submit(long(number)).unwrap()).collect();
        let outcomes: Vec<_> = streams.into_iter().map(read).collect();
        let preemptions = count(&engine, |stats| &stats.preemptions);
        assert!(preemptions > 0, "{PAGES} pages were enough");
        end(&engine);
        let roomy = start(model, options());
        for (number, outcome) in (0..8).zip(outcomes) {
            let (got, last) = (outcome.tokens.len(), &outcome.end);
            assert_eq!(got, TOKENS as usize, "request {number} after {preemptions} preemptions: {last:?}");
            assert_eq!(outcome.answer(), run(&roomy, long(number)).answer(), "request {number}");
        }
        end(&roomy);
    }
}
