//! Several continuations of one prompt: it is computed once, its pages are shared, and each says what it would say alone.

use falaj_engine::{Choice, EngineOptions, Event, Request, Sampling};

use crate::run::{MIXTURE, MODEL, count, end, options, prompt, read, request, run, start};

fn asked(prompt_tokens: usize, seed: u64) -> Request {
    let sampling = Sampling { temperature: 1.0, presence_penalty: 0.3, seed, ..Sampling::default() };
    Request { sampling, logprobs: Some(2), ..request(prompt(8, prompt_tokens), 40) }
}

fn more(count: u64) -> Vec<Choice> {
    (1..count).map(|seed| Choice { seed, constraint: None }).collect()
}

#[test]
fn each_choice_is_what_it_would_be_alone() {
    for model in [&*MODEL, &*MIXTURE] {
        let alone = start(model, options());
        for (prompt_tokens, step_tokens, prefix_cache) in [(100, 64, true), (96, 24, true), (37, 64, false)] {
            let engine = start(model, EngineOptions { step_tokens, prefix_cache, threads: 2, ..options() });
            let streams = engine.submit_choices(asked(prompt_tokens, 0), more(5)).unwrap();
            let outcomes: Vec<_> = streams.into_iter().map(read).collect();
            // No row of the prompt twice, not even those of its last page, which is not full.
            assert_eq!(count(&engine, |stats| &stats.prompt_rows), prompt_tokens as u64);
            for (seed, outcome) in (0..).zip(&outcomes) {
                assert_eq!(outcome.answer(), run(&alone, asked(prompt_tokens, seed)).answer(), "choice {seed}");
                let cached = if seed == 0 { 0 } else { prompt_tokens as u32 };
                assert_eq!(outcome.usage().cached_tokens, cached);
            }
            assert_ne!(outcomes[0].tokens, outcomes[1].tokens);
            end(&engine);
        }
        end(&alone);
    }
}

#[test]
fn more_choices_than_places_come_later() {
    let engine = start(&MODEL, EngineOptions { max_sequences: 2, ..options() });
    let streams = engine.submit_choices(asked(50, 0), more(7)).unwrap();
    let outcomes: Vec<_> = streams.into_iter().map(read).collect();
    for (seed, outcome) in (0..).zip(outcomes) {
        assert_eq!(outcome.answer(), run(&engine, asked(50, seed)).answer());
    }
    // All or none: there is no room for so many.
    let refused = engine.submit_choices(asked(50, 0), more(1000)).err().unwrap();
    assert!(refused.to_string().starts_with("the queue of 128 requests is full"));
    end(&engine);
}

#[test]
fn readers_of_some_choices_may_leave() {
    let engine = start(&MODEL, options());
    // More tokens than a stream holds unread: none of them can have ended before its reader leaves.
    let long = |seed| Request { max_tokens: 400, ..asked(100, seed) };
    let mut streams = engine.submit_choices(long(0), more(4)).unwrap();
    // The one in whose name the prompt is computed, perhaps before it is.
    drop(streams.remove(0));
    let mut gone = streams.remove(1);
    assert!(matches!(gone.events.blocking_recv(), Some(Event::Token { .. })));
    drop(gone);
    for (seed, stream) in [1, 3].into_iter().zip(streams) {
        assert_eq!(read(stream).answer(), run(&engine, long(seed)).answer());
    }
    // Where nothing is generated, each choice is told so.
    let counted = Request { max_tokens: 0, ..asked(20, 0) };
    for stream in engine.submit_choices(counted, more(3)).unwrap() {
        assert_eq!(read(stream).usage().completion_tokens, 0);
    }
    assert_eq!(count(&engine, |stats| &stats.cancelled), 2);
    end(&engine);
}
