//! What a request cost is known while it runs, when it has ended, and when its receiver left.

use falaj_engine::{EngineOptions, Event, ScoreRequest, Tenant};

use crate::run::{MODEL, end, options, prompt, request, start};

#[test]
fn every_kind_of_request_says_what_it_took() {
    let engine = start(&MODEL, EngineOptions { threads: 2, ..options() });
    // More tokens than a stream holds, so that the last step comes after the first look.
    let mut stream = engine.submit(request(prompt(1, 40), 200)).unwrap();
    let whole = stream.cpu_time();
    let Some(Event::Token { .. }) = stream.events.blocking_recv() else { panic!("no token") };
    let first = whole.ns();
    assert!(first > 0, "a token is out, so its step was counted");
    while stream.events.blocking_recv().is_some() {}
    assert!(whole.ns() > first);

    let mut left = engine.submit(request(prompt(2, 40), 20)).unwrap();
    let cpu = left.cpu_time();
    left.events.blocking_recv().unwrap();
    drop(left);
    assert!(cpu.ns() > 0);

    let embedded = engine.embed(prompt(3, 40), 0, Tenant::default(), None).unwrap();
    let cpu = embedded.cpu_time();
    embedded.blocking_recv().unwrap().unwrap();
    assert!(cpu.ns() > 0);
    let asked = ScoreRequest { tokens: prompt(4, 40), ..ScoreRequest::default() };
    let scored = engine.score(asked).unwrap();
    let cpu = scored.cpu_time();
    scored.blocking_recv().unwrap().unwrap();
    assert!(cpu.ns() > 0);
    end(&engine);
}
