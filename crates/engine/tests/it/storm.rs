//! Many requests of all kinds at once, on far too few pages, with readers that leave: whoever stays gets the answer that a
//! quiet engine gives, and in the end every page is back.

use falaj_engine::{EngineOptions, Event, Request, Sampling, Tenant};
use falaj_model::KvCache;

use crate::run::{MIXTURE, count, end, options, prompt, read, request, run, start};

fn any(number: u32) -> Request {
    let sampling = Sampling { temperature: 0.7, top_p: 0.9, seed: u64::from(number), ..Sampling::default() };
    // A third of them share the beginning of a prompt.
    let mut tokens = prompt(if number.is_multiple_of(3) { 1 } else { number }, 20 + (number as usize * 7) % 60);
    tokens.push(number % 97);
    Request {
        sampling,
        tenant: Tenant { id: u64::from(number % 5), weight: 50 + number % 3, band: (number % 5 / 4) as u8 },
        cache_salt: u64::from(number % 2),
        logprobs: number.is_multiple_of(4).then_some(1),
        stop_tokens: vec![number % 50],
        ..request(tokens, 1 + (number * 11) % 50)
    }
}

#[test]
fn a_storm_on_few_pages() {
    let page_bytes = KvCache::page_bytes(MIXTURE.config(), falaj_kernels::KvFormat::F16);
    let storm = start(
        &MIXTURE,
        EngineOptions { cache_bytes: 18 * page_bytes, threads: 2, queue_requests: 1000, step_tokens: 48, ..options() },
    );
    let quiet = start(&MIXTURE, options());
    std::thread::scope(|scope| {
        for reader in 0..6 {
            let (storm, quiet) = (&storm, &quiet);
            scope.spawn(move || {
                let numbers = (reader * 25..(reader + 1) * 25).collect::<Vec<u32>>();
                let streams: Vec<_> = numbers.iter().map(|number| storm.submit(any(*number)).unwrap()).collect();
                for (number, mut stream) in numbers.into_iter().zip(streams) {
                    match number % 5 {
                        0 => drop(stream),
                        1 => {
                            let first = stream.events.blocking_recv();
                            assert!(!matches!(first, Some(Event::Failed(_)) | None));
                        }
                        _ => assert_eq!(read(stream).answer(), run(quiet, any(number)).answer(), "request {number}"),
                    }
                }
            });
        }
    });
    let ends = count(&storm, |stats| &stats.finished) + count(&storm, |stats| &stats.cancelled);
    end(&storm);
    end(&quiet);
    assert!(ends <= 150);
    let ends = count(&storm, |stats| &stats.finished) + count(&storm, |stats| &stats.cancelled);
    assert_eq!((ends, count(&storm, |stats| &stats.failed)), (150, 0));
}
