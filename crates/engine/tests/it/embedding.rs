//! Embeddings: the mean over positions, whatever else runs.

use falaj_engine::{EngineOptions, Tenant};
use falaj_kernels::{KvFormat, Pool};
use falaj_model::{Batch, KvCache, PAGE_TOKENS, Want, Workspace};

use crate::run::{MODEL, end, options, prompt, request, start};

#[test]
fn is_the_mean_of_hidden_states() {
    let tokens = prompt(5, 50);
    let mut cache = KvCache::new(MODEL.config(), KvFormat::F16, 4).unwrap();
    let mut ws = Workspace::new(&MODEL, Pool::new(1), 50, 1).unwrap();
    let mut batch = Batch::default();
    batch.sequence(&[0, 1, 2, 3]);
    for (position, token) in tokens.iter().enumerate() {
        batch.push(*token, position as u32, Want::Hidden);
    }
    MODEL.forward(&mut ws, &mut cache, &batch).unwrap();
    let d = MODEL.config().hidden_size;
    let sums = (0..50).fold(vec![0.0; d], |sums: Vec<f64>, row| {
        sums.iter().zip(ws.hidden(row).unwrap()).map(|(sum, value)| sum + f64::from(*value)).collect()
    });

    let engine = start(&MODEL, EngineOptions { step_tokens: 20, ..options() });
    let reply = engine.embed(tokens.clone(), 0, Tenant::default(), None).unwrap().blocking_recv().unwrap().unwrap();
    assert_eq!(reply.len(), d);
    for (ours, sum) in reply.iter().zip(sums) {
        assert!((f64::from(*ours) - sum / 50.0).abs() < 1e-6);
    }
    // Among others, in other chunks, with too few pages: the same bits.
    let page_bytes = KvCache::page_bytes(MODEL.config(), KvFormat::F16);
    let cache_bytes = (50 / PAGE_TOKENS + 3) * page_bytes;
    let crowded = start(&MODEL, EngineOptions { step_tokens: 7, cache_bytes, ..options() });
    let streams: Vec<_> = (0..3).map(|number| crowded.submit(request(prompt(number, 9), 30)).unwrap()).collect();
    let replies: Vec<_> = (0..3).map(|_| crowded.embed(tokens.clone(), 0, Tenant::default(), None).unwrap()).collect();
    for other in replies {
        assert_eq!(other.blocking_recv().unwrap().unwrap(), reply);
    }
    drop(streams);
    assert!(engine.embed(vec![], 0, Tenant::default(), None).is_err());
    end(&engine);
    end(&crowded);
}
