//! Decoding allocates nothing on the engine thread: counted by the allocator, seen from a constraint, which runs there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use falaj_engine::{Constraint, ConstraintError, EngineOptions, Event, Request, Sampling, TokenMask};
use falaj_kernels::{CountingAllocator, KvFormat};
use falaj_model::KvCache;
use falaj_model::synthetic::AdapterSample;

use crate::run::{MODEL, VOCAB, end, options, prompt, request, run, start};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const TOKENS: usize = 400;
/// Those that are read before counting begins.
const FIRST: usize = 8;

/// Allows everything, and notes what its thread has allocated before each token.
struct Probe {
    counts: Arc<Vec<AtomicU64>>,
    reached: Arc<AtomicUsize>,
}

impl Constraint for Probe {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        mask.words.fill(u32::MAX);
        let place = self.reached.fetch_add(1, Ordering::SeqCst);
        self.counts[place].store(CountingAllocator::count(), Ordering::SeqCst);
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        Ok(())
    }
}

#[test]
fn a_decoded_token_costs_no_allocation() {
    // A stream's channel takes another block of slots when its reader is late, as on a busy machine: at most two for each of the
    // five streams. One allocation for each token would be 1,250, one for each page of them 78.
    let idle = allocations(false);
    assert!(idle <= 10, "{idle}");
    // How many rows are proposed depends on measured times, and buffers grow when a step has more rows than any before:
    // a few times in all, where 250 steps were made.
    assert!(allocations(true) <= 16);
}

/// What the engine thread allocates in 250 steps of decoding.
fn allocations(speculation: bool) -> u64 {
    let page_bytes = KvCache::page_bytes(MODEL.config(), KvFormat::F16);
    let engine = start(&MODEL, EngineOptions { cache_bytes: 300 * page_bytes, speculation, ..options() });
    let random = Sampling { temperature: 0.9, seed: 4, ..Sampling::default() };
    let nucleus = Sampling { top_k: Some(30), top_p: 0.9, min_p: 0.01, ..random.clone() };
    let penalised =
        Sampling { presence_penalty: 0.1, frequency_penalty: 0.1, repetition_penalty: 1.1, ..Sampling::default() };
    let counts: Arc<Vec<AtomicU64>> = Arc::new((0..=TOKENS).map(|_| AtomicU64::new(0)).collect());
    let reached = Arc::new(AtomicUsize::new(0));
    let probe = Probe { counts: Arc::clone(&counts), reached: Arc::clone(&reached) };

    let adapter = AdapterSample::new(MODEL.config(), 8, 1).load(&MODEL).unwrap();
    let adapter = engine.load_adapter(adapter).unwrap();
    // What grows with the longest context, or with the first adapter, has grown.
    run(&engine, Request { adapter: Some(adapter.clone()), ..request(prompt(9, 30), 480) });
    let ask = |sampling: Sampling, logprobs| Request { sampling, logprobs, ..request(prompt(1, 40), TOKENS as u32) };
    let generated = || engine.stats().generated_tokens.load(Ordering::SeqCst);
    let before = generated();
    let mut streams: Vec<_> = [
        Request { constraint: Some(Box::new(probe)), ..ask(Sampling::default(), None) },
        ask(Sampling::default(), Some(20)),
        Request { adapter: Some(adapter), ..ask(random, None) },
        ask(nucleus, Some(3)),
        ask(penalised, Some(0)),
    ]
    .into_iter()
    .map(|request| engine.submit(request).unwrap())
    .collect();
    // Nobody reads until the channels are full, and then only a little until they are full again, so that they hold as many
    // of their blocks at once as they ever will.
    let mut told = 0;
    for read in [FIRST, TOKENS - FIRST] {
        while generated() < before + ((62 + told) * streams.len()) as u64 {
            thread::yield_now();
        }
        for _ in 0..read {
            for stream in &mut streams {
                let event = stream.events.blocking_recv();
                assert!(matches!(event, Some(Event::Token { token, .. }) if (token as usize) < VOCAB));
            }
        }
        told += read;
    }
    let counts: Vec<u64> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
    // It counts at all: admission allocated.
    assert!(counts[0] > 0);
    // From the first full channels to a few tokens before the end, where a reader that is behind makes others end first.
    let allocated = counts[TOKENS - 70] - counts[70 + FIRST];
    drop(streams);
    end(&engine);
    allocated
}
