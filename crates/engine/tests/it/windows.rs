//! A model with a window: pages that no later row sees are given back while the sequence runs, and nothing changes by it.

use falaj_engine::{EngineOptions, Event, Request};
use falaj_kernels::KvFormat;
use falaj_model::{KvCache, PAGE_TOKENS};

use crate::run::{MIXTURE, count, end, options, prompt, read, request, run, start};

#[test]
fn pages_behind_the_window_come_back() {
    let engine = start(&MIXTURE, EngineOptions { prefix_cache: false, ..options() });
    let mut stream = engine.submit(request(prompt(1, 200), 250)).unwrap();
    let mut tokens = 0;
    while let Some(Event::Token { .. }) = stream.events.blocking_recv() {
        tokens += 1;
        // A window of 24 tokens touches three pages; one more is begun before the step, and given back after it. The first
        // token comes before the prompt's pages went.
        assert!(tokens == 1 || count(&engine, |stats| &stats.pages_used) <= 4);
    }
    assert_eq!(tokens, 250);
    end(&engine);
}

/// Eight long sequences on fewer pages than any two of them have positions: with the window they fit, are preempted, find
/// some of their beginnings and not others, and say what they would say alone.
#[test]
fn crowded_windows_change_nothing() {
    let long = |number: u32| Request {
        logprobs: Some(1),
        ..request(prompt(number / 2, 120 + 10 * (number as usize / 2)), 120)
    };
    let page_bytes = KvCache::page_bytes(MIXTURE.config(), KvFormat::F16);
    let pages = 300 / PAGE_TOKENS;
    let crowded = start(&MIXTURE, EngineOptions { cache_bytes: pages * page_bytes, threads: 2, ..options() });
    let quiet = start(&MIXTURE, options());
    for _ in 0..2 {
        let streams: Vec<_> = (0..8).map(|number| crowded.submit(long(number)).unwrap()).collect();
        for (number, stream) in (0..).zip(streams) {
            assert_eq!(read(stream).answer(), run(&quiet, long(number)).answer(), "request {number}");
        }
    }
    end(&crowded);
    end(&quiet);
}
