//! What a step holds: everything once an epoch, the same whatever was asked before, shares as they were given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::data::store::StoreWriter;
use crate::data::{Example, Unit};

fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("falaj-train-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// Example k has the tokens 100 k, 100 k + 1, …; half of them are learnt.
fn example(k: u32, tokens: u32) -> Example {
    let weights = (0..tokens).map(|at| if at == 0 || at < tokens / 2 { 0.0 } else { 1.0 - 0.25 * (k % 2) as f32 });
    Example { tokens: (0..tokens).map(|at| 100 * k + at).collect(), weights: weights.collect() }
}

fn store(name: &str, units: impl IntoIterator<Item = (Unit, u16)>) -> Store {
    let dir = folder(name);
    let mut writer = StoreWriter::create(&dir, "train").unwrap();
    for (unit, file) in units {
        writer.add(&unit, file).unwrap();
    }
    let store = writer.finish().unwrap();
    // The files stay open.
    std::fs::remove_dir_all(&dir).unwrap();
    store
}

const SHAPE: Shape = Shape { rows: 2, length: 32, accumulate: 2, pack: true, padding: 7 };

fn sizes(k: u32) -> u32 {
    3 + (k * 7) % 29
}

fn batches(name: &str, shape: Shape) -> Batches {
    Batches::new(store(name, (0..50).map(|k| (Unit::Example(example(k, sizes(k))), 0))), shape, 9, None).unwrap()
}

/// The learnt predictions of some steps: (token, target) to how often, and their weight.
fn learnt(batches: &Batches, steps: std::ops::Range<u64>) -> BTreeMap<(u32, u32), (u32, f32)> {
    let mut seen = BTreeMap::new();
    for batch in steps.flat_map(|step| batches.step(step).unwrap()) {
        for at in 0..batch.len() {
            if batch.weights[at] > 0.0 {
                let entry = seen.entry((batch.tokens[at], batch.targets[at])).or_insert((0, batch.weights[at]));
                entry.0 += 1;
            }
        }
    }
    seen
}

fn expected(times: u32) -> BTreeMap<(u32, u32), (u32, f32)> {
    let examples = (0..50).map(|k| example(k, sizes(k)));
    let pairs = examples.flat_map(|example| {
        let targets: Vec<_> = example
            .tokens
            .iter()
            .zip(&example.tokens[1..])
            .zip(&example.weights[1..])
            .filter(|(_, weight)| **weight > 0.0)
            .map(|((a, b), weight)| ((*a, *b), (times, *weight)))
            .collect();
        targets
    });
    pairs.collect()
}

#[test]
fn an_epoch_has_everything_once() {
    for (name, pack) in [("once-packed", true), ("once-apart", false)] {
        // One row a step: epochs end at the end of a step.
        let batches = batches(name, Shape { rows: 1, accumulate: 1, pack, ..SHAPE });
        let epoch = batches.rows();
        assert_eq!(batches.steps(1.0), epoch);
        assert_eq!(learnt(&batches, 0..epoch), expected(1));
        assert_eq!(learnt(&batches, 0..3 * epoch), expected(3));
        let first: Vec<_> = (0..epoch).map(|step| batches.step(step).unwrap()).collect();
        let second: Vec<_> = (epoch..2 * epoch).map(|step| batches.step(step).unwrap()).collect();
        assert_ne!(first, second, "another order");
        if pack {
            assert!(batches.fill() > 0.9, "{}", batches.fill());
        } else {
            assert_eq!(epoch, 50);
        }
    }
}

#[test]
fn documents_begin_anew_and_padding_counts_nothing() {
    let batches = batches("shape", SHAPE);
    for laid in (0..20).flat_map(|step| batches.laid(step).unwrap()) {
        let batch = &laid.batch;
        assert_eq!(batch.len(), SHAPE.rows * SHAPE.length);
        batch.check(64, 100_000, 32).unwrap();
        let mut covered = vec![false; batch.len()];
        for document in &laid.documents {
            assert!(document.start / SHAPE.length == (document.end - 1) / SHAPE.length, "within its row");
            for (at, t) in document.clone().enumerate() {
                covered[t] = true;
                assert_eq!((batch.starts[t] as usize, batch.positions[t] as usize), (document.start, at));
                assert_eq!(batch.tokens[t] + 1, batch.targets[t]);
            }
        }
        for t in (0..batch.len()).filter(|t| !covered[*t]) {
            let padding =
                (batch.tokens[t], batch.targets[t], batch.weights[t], batch.starts[t] as usize, batch.positions[t]);
            assert_eq!(padding, (7, 7, 0.0, t, 0));
        }
    }
}

#[test]
fn a_step_depends_on_its_number_alone() {
    let weights = [3.0, 1.0];
    let make = |name: &str, weights: Option<&[f64]>| {
        let units = (0..50).map(|k| (Unit::Example(example(k, sizes(k))), u16::from(k >= 10)));
        Batches::new(store(name, units), SHAPE, 9, weights).unwrap()
    };
    for weights in [None, Some(&weights[..])] {
        let (forward, jumping) = (make("forward", weights), make("jumping", weights));
        let all: Vec<_> = (0..40).map(|step| forward.step(step).unwrap()).collect();
        for step in [39, 0, 17, 18, 3, 39] {
            assert_eq!(jumping.step(step).unwrap(), all[step as usize], "step {step}");
        }
        assert_eq!(forward.order_digest(40), jumping.order_digest(40));
        assert_ne!(forward.order_digest(40), forward.order_digest(39));
    }
}

#[test]
fn accumulated_steps_hold_what_one_large_batch_would() {
    let small = batches("small", Shape { rows: 1, accumulate: 4, ..SHAPE });
    let large = batches("large", Shape { rows: 4, accumulate: 1, ..SHAPE });
    for step in 0..10 {
        let join = |batches: &Batches| {
            let list = batches.step(step).unwrap();
            list.iter().flat_map(|batch| batch.tokens.clone()).collect::<Vec<_>>()
        };
        assert_eq!(join(&small), join(&large));
    }
}

#[test]
fn shares_are_kept_at_every_step() {
    let units = (0..50).map(|k| (Unit::Example(example(k, 33)), u16::from(k >= 10)));
    let batches = Batches::new(store("shares", units), SHAPE, 9, Some(&[3.0, 1.0])).unwrap();
    let mut counts = [0, 0];
    for step in 0..50 {
        for batch in batches.step(step).unwrap() {
            for row in batch.tokens.chunks(32) {
                counts[usize::from(row[0] >= 1000)] += 1;
            }
        }
        assert_eq!(counts[0], 3 * counts[1], "step {step}");
    }
    let none = Batches::new(store("none", []), SHAPE, 9, None);
    assert!(matches!(none, Err(TrainError::NoData)));
}

#[test]
fn text_is_cut_without_losing_a_prediction_and_pairs_are_neighbours() {
    let text = Example { tokens: (0..1000).collect(), weights: vec![1.0; 1000] };
    let one = Batches::new(store("text", [(Unit::Text(text), 0)]), Shape { rows: 1, accumulate: 1, ..SHAPE }, 1, None)
        .unwrap();
    let seen = learnt(&one, 0..one.rows());
    assert_eq!(seen.len(), 999);
    assert!(seen.iter().all(|((token, target), (times, _))| token + 1 == *target && *times == 1));

    let pairs =
        (0..20).map(|k| (Unit::Pair([example(2 * k, sizes(k) / 2 + 2), example(2 * k + 1, sizes(k) / 2 + 1)]), 0));
    let batches = Batches::new(store("pairs", pairs), SHAPE, 1, None).unwrap();
    for laid in (0..10).flat_map(|step| batches.laid(step).unwrap()) {
        for pair in laid.documents.chunks(2) {
            let [chosen, rejected] = [&pair[0], &pair[1]].map(|document| laid.batch.tokens[document.start] / 100);
            assert_eq!((chosen % 2, rejected), (0, chosen + 1));
        }
    }
}

#[test]
fn a_sample_is_the_same_each_time() {
    let batches = batches("sample", SHAPE);
    let take = |most| batches.sample(most).map(|laid| laid.unwrap().batch).collect::<Vec<_>>();
    assert_eq!(take(5), take(5));
    assert_eq!(take(5).len(), 3);
    assert_eq!(take(0).len() as u64, batches.rows().div_ceil(2));
    assert!(take(5)[2].weights[32..].iter().all(|weight| *weight == 0.0), "the last one is padded");
}
