//! Bounds and ends: queue, context, slow and lost readers, shutdown.

use std::sync::Arc;

use expect_test::expect;
use falaj_engine::{Engine, EngineError, EngineOptions, Event, FinishReason, Request, Sampling, SubmitError, Tenant};
use falaj_model::KvCache;

use crate::run::{MODEL, VOCAB, count, end, options, prompt, read, request, run, start};

#[test]
fn prompts_that_cannot_be_taken() {
    let engine = start(&MODEL, EngineOptions { context_tokens: 64, ..options() });
    let refused = |request: Request| engine.submit(request).err().unwrap().to_string();
    expect!["the prompt is empty; send at least one token"].assert_eq(&refused(request(vec![], 1)));
    expect!["token 97 is outside the vocabulary of 97"].assert_eq(&refused(request(vec![1, VOCAB as u32], 1)));
    expect!["the prompt has 64 tokens; this model's context holds 64; shorten the prompt"]
        .assert_eq(&refused(request(prompt(0, 64), 1)));
    // It fits where nothing is asked for, and the answer ends where the context does.
    let counted = run(&engine, request(prompt(0, 64), 0));
    assert_eq!((counted.tokens.len(), counted.usage().prompt_tokens), (0, 64));
    let outcome = run(&engine, request(prompt(0, 60), 100));
    assert_eq!((outcome.tokens.len(), outcome.end.unwrap().0), (4, FinishReason::Length));
    end(&engine);
}

#[test]
fn stop_tokens_end_and_are_not_sent() {
    let engine = start(&MODEL, options());
    let free = run(&engine, request(prompt(1, 10), 12));
    let stop = free.tokens[5];
    let first = free.tokens.iter().position(|token| *token == stop).unwrap();
    let stopped = run(&engine, Request { stop_tokens: vec![stop], ..request(prompt(1, 10), 12) });
    assert_eq!(stopped.tokens, free.tokens[..first]);
    assert_eq!(stopped.end.as_ref().unwrap().0, FinishReason::Stop);
    assert_eq!(stopped.usage().completion_tokens as usize, first);
    // Before `min_tokens` it cannot be drawn.
    let later = run(&engine, Request { stop_tokens: vec![stop], min_tokens: 9, ..request(prompt(1, 10), 12) });
    assert!(later.tokens.len() >= 9 && !later.tokens.contains(&stop));
    end(&engine);
}

#[test]
fn a_full_queue_is_refused_with_a_hint() {
    let engine = start(&MODEL, EngineOptions { max_sequences: 1, queue_requests: 2, ..options() });
    // Nobody reads, so nothing ends: one runs into its full channel, two wait, and the rest is refused.
    let mut streams = Vec::new();
    let refusal = loop {
        match engine.submit(request(prompt(2, 8), 400)) {
            Ok(stream) => streams.push(stream),
            Err(refusal) => break refusal,
        }
        assert!(streams.len() < 10);
    };
    let SubmitError::QueueFull { capacity: 2, retry_after_ms } = refusal else { panic!("{refusal}") };
    assert!((100..=60_000).contains(&retry_after_ms));
    assert!(streams.len() <= 3);
    // Those who were accepted are served.
    for stream in streams {
        assert_eq!(read(stream).tokens.len(), 400);
    }
    end(&engine);
}

/// Nobody reads and nothing ends. One tenant has filled its queue: others still come in, each with less than the one before,
/// and who came is served.
#[test]
fn a_full_queue_is_its_tenants_own() {
    let engine = start(&MODEL, EngineOptions { max_sequences: 1, queue_requests: 8, ..options() });
    let mut streams = Vec::new();
    let mut fill = |id| {
        let tenant = Tenant { id, ..Tenant::default() };
        let before = streams.len();
        while let Ok(stream) = engine.submit(Request { tenant, ..request(prompt(id as u32, 8), 200) }) {
            streams.push(stream);
            assert!(streams.len() < 100);
        }
        streams.len() - before
    };
    let counts: Vec<usize> = (1..=8).map(&mut fill).collect();
    // One of them runs; while it gives way to the next because nobody reads it, there is one place more.
    assert!((8..=9).contains(&counts[0]), "{counts:?}");
    assert!((7..=9).contains(&counts[1]) && counts[2] >= 6 && counts[3] >= 3, "{counts:?}");
    assert!(counts.iter().sum::<usize>() <= 34, "{counts:?}");
    assert!(counts[4] > 0, "{counts:?}");
    for stream in streams {
        assert_eq!(read(stream).tokens.len(), 200);
    }
    end(&engine);
}

#[test]
fn a_slow_reader_holds_up_nobody_else() {
    let engine = start(&MODEL, options());
    let slow = engine.submit(request(prompt(3, 8), 300)).unwrap();
    for number in 0..4 {
        assert_eq!(run(&engine, request(prompt(number, 20), 100)).tokens.len(), 100);
    }
    let outcome = read(slow);
    assert_eq!(outcome.tokens, run(&engine, request(prompt(3, 8), 300)).tokens);
    end(&engine);
}

/// Who reads one event of each stream in turn is behind with all of them but one, and that one may have no pages.
#[test]
fn a_reader_of_many_streams_never_waits_for_ever() {
    let page_bytes = KvCache::page_bytes(MODEL.config(), falaj_kernels::KvFormat::F16);
    let engine = start(&MODEL, EngineOptions { cache_bytes: 40 * page_bytes, ..options() });
    let mut streams: Vec<_> = (0..5).map(|number| engine.submit(request(prompt(number, 40), 200)).unwrap()).collect();
    for _ in 0..200 {
        for stream in &mut streams {
            assert!(matches!(stream.events.blocking_recv(), Some(Event::Token { .. })));
        }
    }
    assert!(count(&engine, |stats| &stats.preemptions) > 0);
    drop(streams);
    end(&engine);
}

#[test]
fn lost_readers_give_their_pages_back() {
    let engine = start(&MODEL, EngineOptions { max_sequences: 2, ..options() });
    let mut streams: Vec<_> = (0..12).map(|number| engine.submit(request(prompt(number, 30), 400)).unwrap()).collect();
    // One that has begun, and all that wait behind it.
    let mut first = streams.remove(0);
    assert!(matches!(first.events.blocking_recv(), Some(Event::Token { .. })));
    drop(first);
    drop(streams);
    assert_eq!(run(&engine, request(prompt(50, 5), 5)).tokens.len(), 5);
    assert_eq!(count(&engine, |stats| &stats.cancelled), 12);
    end(&engine);
}

#[test]
fn shutdown_drains_or_cuts() {
    let engine = start(&MODEL, options());
    let stream = engine.submit(request(prompt(1, 10), 50)).unwrap();
    end(&engine);
    assert_eq!(read(stream).tokens.len(), 50);
    assert!(matches!(engine.submit(request(prompt(1, 10), 50)), Err(SubmitError::Stopped)));

    let engine = start(&MODEL, options());
    let stream = engine.submit(request(prompt(1, 10), 500)).unwrap();
    engine.shutdown(false);
    let outcome = read(stream);
    expect!["the engine is shutting down; send the request again later"].assert_eq(&outcome.end.unwrap_err());
    assert_eq!(count(&engine, |stats| &stats.pages_used), 0);

    // A drain that a reader holds up is cut short by a second call.
    let engine = start(&MODEL, options());
    let stream = engine.submit(request(prompt(1, 10), 500)).unwrap();
    let drain = std::thread::spawn({
        let engine = engine.clone();
        move || engine.shutdown(true)
    });
    engine.shutdown(false);
    drain.join().unwrap();
    assert!(read(stream).end.is_err());

    // The last handle lets what runs come to its end.
    let engine = start(&MODEL, options());
    let stream = engine.submit(request(prompt(1, 10), 50)).unwrap();
    drop(engine);
    assert_eq!(read(stream).tokens.len(), 50);
}

#[test]
fn damaged_weights_are_told() {
    let engine = start(&MODEL, options());
    let sampling = Sampling { logit_bias: vec![(3, f32::NAN)], ..Sampling::default() };
    let outcome = run(&engine, Request { sampling, ..request(prompt(1, 10), 5) });
    expect!["the model's scores are not numbers (NaN or infinite); its weights are damaged, verify the model"]
        .assert_eq(&outcome.end.unwrap_err());
    assert_eq!(run(&engine, request(prompt(1, 10), 5)).tokens.len(), 5);
    end(&engine);
}

#[test]
fn options_that_make_no_engine() {
    let refused = |options| Engine::start(Arc::clone(&MODEL), options).err().unwrap();
    assert!(matches!(refused(EngineOptions { threads: 0, ..options() }), EngineError::Zero { option: "threads" }));
    assert!(matches!(refused(EngineOptions { cache_bytes: 10, ..options() }), EngineError::CacheTooSmall { .. }));
    // A small cache lowers the context instead of failing later.
    let page_bytes = KvCache::page_bytes(MODEL.config(), falaj_kernels::KvFormat::F16);
    let engine = start(&MODEL, EngineOptions { cache_bytes: 3 * page_bytes, ..options() });
    assert_eq!(engine.context_tokens(), 48);
    assert_eq!(run(&engine, request(prompt(0, 40), 100)).tokens.len(), 8);
    end(&engine);
}
