//! Adapters in a running engine: mixed in a batch without a row noticing, cached apart, loaded and unloaded under load.

use std::sync::Arc;

use falaj_artifact::{Digest, Verified};
use falaj_engine::{
    AdapterError, AdapterHandle, Choice, Engine, EngineOptions, Request, Sampling, ScoreRequest, SubmitError, Tenant,
};
use falaj_kernels::{Format, KvFormat};
use falaj_model::synthetic::{AdapterSample, Checkpoint, synthetic, tiny_config};
use falaj_model::{Config, KvCache, LoadOptions, Model, load};

use crate::run::{MIXTURE, MODEL, Outcome, VOCAB, count, end, options, prompt, read, request, run, start};

fn adapter(engine: &Engine, seed: u64) -> AdapterHandle {
    let model = engine.model();
    let sample = AdapterSample::new(model.config(), 4 + seed as usize % 5, seed);
    engine.load_adapter(sample.load(model).unwrap()).unwrap()
}

/// Greedy and random, with and without adapters, of which there are four.
fn varied(number: u32, adapters: &[AdapterHandle]) -> Request {
    let random = Sampling { temperature: 0.8, top_p: 0.95, seed: u64::from(number), ..Sampling::default() };
    Request {
        sampling: if number.is_multiple_of(3) { Sampling::default() } else { random },
        logprobs: Some(3),
        adapter: adapters.get(number as usize % 5).cloned(),
        ..request(prompt(number % 4, 3 + (number as usize * 13) % 90), 20 + number % 30)
    }
}

fn alone(model: &Arc<Model>, number: u32) -> Outcome {
    let engine = start(model, EngineOptions { speculation: false, ..options() });
    let adapters: Vec<_> = (0..4).map(|seed| adapter(&engine, seed)).collect();
    let outcome = run(&engine, varied(number, &adapters));
    end(&engine);
    outcome
}

/// Bit for bit: with other adapters beside, on more threads, in other chunks, with pages of the cache and without, guessed or
/// not, and after it was preempted.
#[test]
fn a_request_does_not_notice_the_adapters_of_others() {
    const CROWD: u32 = 20;
    for model in [&*MODEL, &*MIXTURE] {
        let expected: Vec<_> = (0..CROWD).map(|number| alone(model, number).answer()).collect();
        let page_bytes = KvCache::page_bytes(model.config(), KvFormat::F16);
        for (threads, step_tokens, pages, speculation) in
            [(1, 64, 0, true), (2, 7, 0, false), (3, 512, 24, true), (2, 33, 0, true)]
        {
            let engine = start(
                model,
                EngineOptions { threads, step_tokens, cache_bytes: pages * page_bytes, speculation, ..options() },
            );
            let adapters: Vec<_> = (0..4).map(|seed| adapter(&engine, seed)).collect();
            for _ in 0..2 {
                let streams: Vec<_> =
                    (0..CROWD).map(|number| engine.submit(varied(number, &adapters)).unwrap()).collect();
                for (number, stream) in (0..).zip(streams) {
                    let case = format!("request {number}, {threads} threads, steps of {step_tokens}");
                    assert_eq!(read(stream).answer(), expected[number], "{case}");
                }
            }
            end(&engine);
        }
    }
}

#[test]
fn it_says_what_the_merged_model_says() {
    let config = tiny_config(VOCAB, 512);
    let base = Checkpoint::new(config.clone(), 1).unwrap();
    let sample = AdapterSample::new(&config, 8, 5);
    let merged = sample.merged(&base, Format::F32).unwrap().leak();
    let merged = Verified::embedded(merged, Digest::of(merged)).unwrap();
    let merged = start(&Arc::new(load(&merged, LoadOptions::default()).unwrap()), options());
    let engine = start(&MODEL, options());
    let handle = engine.load_adapter(sample.load(&MODEL).unwrap()).unwrap();
    let (mut differs, mut agree) = (0, 0);
    for seed in 0..8 {
        let asked = |adapter| Request { adapter, logprobs: Some(2), ..request(prompt(seed, 20), 24) };
        let with = run(&engine, asked(Some(handle.clone()))).tokens;
        let theirs = run(&merged, asked(None));
        // Up to where two tokens are as good as equal: the adapter is rounded to bf16.
        let clear = |(_, top): &&(u32, Vec<(u32, u32)>)| f32::from_bits(top[0].1) - f32::from_bits(top[1].1) > 0.05;
        let count = theirs.logprobs.iter().take_while(clear).count();
        assert_eq!(with[..count], theirs.tokens[..count], "prompt {seed}");
        agree += count;
        differs += usize::from(with != run(&engine, asked(None)).tokens);
    }
    assert!(differs >= 6 && agree >= 24, "{differs}, {agree}");
    end(&engine);
    end(&merged);
}

/// Keys and values of the base are not the adapter's, nor one adapter's another's.
#[test]
fn prefixes_belong_to_their_adapter() {
    let engine = start(&MODEL, options());
    let (first, second) = (adapter(&engine, 1), adapter(&engine, 2));
    let asked = |adapter: Option<&AdapterHandle>| Request {
        adapter: adapter.cloned(),
        logprobs: Some(2),
        ..request(prompt(1, 100), 6)
    };
    let cold: Vec<_> = [None, Some(&first), Some(&second)].map(|adapter| run(&engine, asked(adapter))).into();
    for outcome in &cold {
        assert_eq!(outcome.usage().cached_tokens, 0);
    }
    assert_ne!(cold[0].answer(), cold[1].answer());
    assert_ne!(cold[1].answer(), cold[2].answer());
    // The same adapter loaded again finds what it left: it is known by its contents.
    let again = adapter(&engine, 1);
    for (outcome, adapter) in cold.iter().zip([None, Some(&again), Some(&second)]) {
        let warm = run(&engine, asked(adapter));
        assert_eq!((warm.usage().cached_tokens, warm.answer()), (96, outcome.answer()));
    }
    // Tenants stay apart, too.
    let other = run(&engine, Request { cache_salt: 3, ..asked(Some(&first)) });
    assert_eq!((other.usage().cached_tokens, other.answer()), (0, cold[1].answer()));
    // Further choices of a prompt have its adapter.
    let more = || vec![Choice { seed: 1, constraint: None }];
    let streams = engine.submit_choices(asked(Some(&second)), more()).unwrap();
    for stream in streams {
        assert_eq!(read(stream).answer(), cold[2].answer());
    }
    let embedding = |adapter: Option<&AdapterHandle>| {
        engine.embed(prompt(1, 30), 0, Tenant::default(), adapter).unwrap().blocking_recv().unwrap().unwrap()
    };
    assert_ne!(embedding(None), embedding(Some(&first)));
    let scores = |adapter: Option<&AdapterHandle>| {
        let asked =
            ScoreRequest { tokens: prompt(1, 60), first: 40, adapter: adapter.cloned(), ..ScoreRequest::default() };
        engine.score(asked).unwrap().blocking_recv().unwrap().unwrap().logprobs
    };
    assert_eq!(scores(Some(&first)), scores(Some(&again)));
    assert_ne!(scores(None), scores(Some(&first)));
    end(&engine);
}

#[test]
fn unloading_ends_no_request() {
    let engine = start(&MODEL, options());
    let expected = alone(&MODEL, 1).answer();
    let adapters: Vec<_> = (0..4).map(|seed| adapter(&engine, seed)).collect();
    assert_eq!(count(&engine, |stats| &stats.adapters), 4);
    // Nobody reads yet, so that it is queued or under way.
    let streams: Vec<_> = (0..12).map(|_| engine.submit(varied(1, &adapters)).unwrap()).collect();
    engine.unload_adapter(&adapters[1]);
    engine.unload_adapter(&adapters[1]);
    assert_eq!(count(&engine, |stats| &stats.adapters), 3);
    assert!(matches!(engine.submit(varied(1, &adapters)), Err(SubmitError::NoAdapter)));
    assert!(matches!(engine.embed(vec![1], 0, Tenant::default(), Some(&adapters[1])), Err(SubmitError::NoAdapter)));
    for stream in streams {
        assert_eq!(read(stream).answer(), expected);
    }
    // The others go on, and it may come back.
    assert_eq!(run(&engine, varied(2, &adapters)).answer(), alone(&MODEL, 2).answer());
    let back = adapter(&engine, 1);
    assert_eq!(run(&engine, Request { adapter: Some(back), ..varied(1, &adapters) }).answer(), expected);
    end(&engine);
}

#[test]
fn an_adapter_of_another_engine_is_refused() {
    let (engine, other) = (start(&MODEL, options()), start(&MODEL, options()));
    let strange = adapter(&other, 1);
    let asked = Request { adapter: Some(strange.clone()), ..request(prompt(1, 5), 2) };
    assert!(matches!(engine.submit(asked), Err(SubmitError::NoAdapter)));
    engine.unload_adapter(&strange);
    assert_eq!(count(&other, |stats| &stats.adapters), 1);
    let deeper = synthetic(&Config { layers: 3, ..tiny_config(VOCAB, 512) }, 1).unwrap();
    let adapter = AdapterSample::new(deeper.config(), 4, 1).load(&deeper).unwrap();
    assert!(matches!(engine.load_adapter(adapter), Err(AdapterError::OtherModel)));
    end(&engine);
    end(&other);
}
