//! Log-probabilities of given tokens: what generating them would have reported, whatever else runs.

use falaj_engine::{Engine, EngineOptions, Request, ScoreRequest, Scores, Tenant};
use falaj_kernels::KvFormat;
use falaj_model::KvCache;

use crate::run::{Bits, MIXTURE, MODEL, Outcome, count, end, options, prompt, request, run, start};

fn text(tokens: &[u32], first: usize) -> ScoreRequest {
    ScoreRequest { tokens: tokens.to_vec(), first, top: 3, ..ScoreRequest::default() }
}

fn score(engine: &Engine, asked: ScoreRequest) -> Scores {
    engine.score(asked).unwrap().blocking_recv().unwrap().unwrap()
}

fn bits(scores: &Scores) -> Vec<Bits> {
    let top = |number| scores.top(number).iter().map(|(token, value)| (*token, value.to_bits())).collect();
    scores.logprobs.iter().enumerate().map(|(number, logprob)| (logprob.to_bits(), top(number))).collect()
}

/// A generated answer, and its text whole.
fn generated(engine: &Engine, seed: u32, prompt_tokens: usize, tokens: u32) -> (Vec<u32>, Outcome) {
    let outcome = run(engine, Request { logprobs: Some(3), ..request(prompt(seed, prompt_tokens), tokens) });
    let mut whole = prompt(seed, prompt_tokens);
    whole.extend(&outcome.tokens);
    (whole, outcome)
}

#[test]
fn are_those_of_generation_bit_for_bit() {
    for model in [&*MODEL, &*MIXTURE] {
        let engine = start(model, options());
        let (whole, outcome) = generated(&engine, 4, 45, 40);
        let expected = outcome.logprobs;
        assert_eq!(bits(&score(&engine, text(&whole, 45))), expected);
        end(&engine);
        // Cold, in other steps, by several threads, with fewer places for logits than rows.
        for (threads, step_tokens, max_sequences, prefix_cache) in
            [(1, 1, 1, true), (2, 7, 2, false), (3, 512, 1, true), (2, 33, 8, true)]
        {
            let options = EngineOptions { threads, step_tokens, max_sequences, prefix_cache, ..options() };
            let engine = start(model, options);
            let all = score(&engine, text(&whole, 0));
            assert_eq!(all.logprobs.len(), whole.len() - 1);
            let all = bits(&all);
            assert_eq!(all[44..], expected, "{threads} threads, steps of {step_tokens}");
            // Warm, from every kind of place in a page.
            for first in [1, 15, 16, 17, 32, 33, 84] {
                assert_eq!(bits(&score(&engine, text(&whole, first))), all[first - 1..], "from {first}");
            }
            end(&engine);
        }
    }
}

/// Beside generations and embeddings, and sent back to the queue for want of pages: nobody's result changes.
#[test]
fn nobody_notices_the_others() {
    let quiet = start(&MODEL, options());
    let (whole, alone) = generated(&quiet, 2, 60, 20);
    let expected = bits(&score(&quiet, text(&whole, 30)));
    let mean = quiet.embed(whole.clone(), 0, Tenant::default(), None).unwrap().blocking_recv().unwrap().unwrap();
    end(&quiet);
    let page_bytes = KvCache::page_bytes(MODEL.config(), KvFormat::F16);
    // Two answers that grow by five pages each while the text, read a row at a time, needs five: nine are too few.
    let crowded = start(&MODEL, EngineOptions { step_tokens: 3, cache_bytes: 9 * page_bytes, ..options() });
    let growing: Vec<_> = (0..2).map(|seed| crowded.submit(request(prompt(seed, 9), 60)).unwrap()).collect();
    let scores = crowded.score(text(&whole, 30)).unwrap();
    let embedded = crowded.embed(whole.clone(), 0, Tenant::default(), None).unwrap();
    let again = crowded.submit(Request { logprobs: Some(3), ..request(prompt(2, 60), 20) }).unwrap();
    assert_eq!(bits(&scores.blocking_recv().unwrap().unwrap()), expected);
    assert_eq!(embedded.blocking_recv().unwrap().unwrap(), mean);
    assert_eq!(crate::run::read(again).answer(), alone.answer());
    assert!(growing.into_iter().all(|stream| crate::run::read(stream).end.is_ok()));
    assert!(count(&crowded, |stats| &stats.preemptions) > 0, "the cache was too small for all");
    end(&crowded);
}

/// What several texts begin with is computed once: choices behind one question.
#[test]
fn shared_beginnings_come_from_the_cache() {
    let engine = start(&MODEL, options());
    let question = prompt(6, 100);
    let choice = |seed| [question.clone(), prompt(seed, 5)].concat();
    score(&engine, text(&choice(1), 100));
    assert_eq!(count(&engine, |stats| &stats.prefix_hit_tokens), 0);
    score(&engine, text(&choice(2), 100));
    assert_eq!(count(&engine, |stats| &stats.prefix_hit_tokens), 96);
    // The row before the first scored token is its own to compute.
    score(&engine, text(&choice(2), 96));
    assert_eq!(count(&engine, |stats| &stats.prefix_hit_tokens), 96 + 80);
    // And a generation goes on from a scored text.
    assert_eq!(run(&engine, request(choice(1), 1)).usage().cached_tokens, 96);
    end(&engine);
}

#[test]
fn little_or_nothing_to_score_and_leaving() {
    let engine = start(&MODEL, options());
    assert_eq!(score(&engine, text(&[5], 0)), Scores::default());
    assert_eq!(score(&engine, text(&[5, 6], 2)), Scores::default());
    assert_eq!(score(&engine, text(&[5, 6], 0)).logprobs.len(), 1);
    let whole_context = score(&engine, ScoreRequest { top: 0, ..text(&prompt(1, 512), 0) });
    assert_eq!((whole_context.logprobs.len(), whole_context.top(0)), (511, &[][..]));
    assert!(engine.score(text(&[], 0)).is_err());
    assert!(engine.score(text(&[97], 0)).is_err());
    assert!(engine.score(text(&prompt(1, 513), 0)).is_err());
    drop(engine.score(text(&prompt(3, 400), 0)).unwrap());
    end(&engine);
}
