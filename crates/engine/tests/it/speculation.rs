//! Speculation changes how many steps an answer takes, never a bit of it. That it takes fewer depends on measured times, which
//! `scheduler/tests.rs` leaves out.

use std::sync::Arc;

use falaj_engine::{EngineError, EngineOptions, Sampling};
use falaj_model::synthetic;
use falaj_model::synthetic::tiny_config;

use crate::run::{MODEL, Outcome, VOCAB, count, options, read, request, start};

fn plain() -> EngineOptions {
    EngineOptions { speculation: false, ..options() }
}

/// A text that repeats itself, asked for greedily and by chance, alone and several at once.
fn outcomes(engine: &falaj_engine::Engine) -> Vec<Outcome> {
    let repeated: Vec<u32> = (0..120).map(|i| i % 12 + 3).collect();
    let streams: Vec<_> = [(0.0, 1), (0.7, 2), (1.0, 3), (0.0, 4)]
        .into_iter()
        .map(|(temperature, seed)| {
            let mut request = request(repeated[..60 + seed as usize * 9].to_vec(), 90);
            request.sampling = Sampling { temperature, seed, frequency_penalty: 0.1, ..Sampling::default() };
            request.logprobs = Some(3);
            engine.submit(request).unwrap()
        })
        .collect();
    streams.into_iter().map(read).collect()
}

#[test]
fn lookups_change_nothing() {
    let without = start(&MODEL, plain());
    let expected = outcomes(&without);
    let with = start(&MODEL, options());
    assert_eq!(outcomes(&with), expected);
    assert_eq!(count(&without, |stats| &stats.proposed_rows), 0);
}

#[test]
fn draft_models_change_nothing() {
    let without = start(&MODEL, plain());
    let expected = outcomes(&without);
    let other = Arc::new(synthetic(&tiny_config(VOCAB, 512), 7).unwrap());
    for draft in [Arc::clone(&MODEL), other] {
        let engine = falaj_engine::Engine::start_with_draft(Arc::clone(&MODEL), Some(draft), options()).unwrap();
        assert_eq!(outcomes(&engine), expected);
    }
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let other = Arc::new(synthetic(&tiny_config(VOCAB + 1, 512), 7).unwrap());
    let engine = falaj_engine::Engine::start_with_draft(Arc::clone(&MODEL), Some(other), options());
    assert!(matches!(engine, Err(EngineError::DraftVocabulary { draft: 98, model: 97 })));
}
