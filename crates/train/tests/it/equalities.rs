//! What must hold to the last bit: packing, accumulation and threads change nothing.

use falaj_model::Config;
use falaj_train::{MicroBatch, Settings, Trainer};

use crate::small::{batch, config, settings, trainer};

fn weights(trainer: &Trainer) -> Vec<u32> {
    let arena = trainer.arena().unwrap();
    arena.slots().flat_map(|slot| arena.get(slot).iter().map(|value| value.to_bits())).collect()
}

/// One batch after the other, as one.
fn joined(batches: &[MicroBatch]) -> MicroBatch {
    let mut all = MicroBatch::default();
    for batch in batches {
        let first = all.len() as u32;
        all.tokens.extend(&batch.tokens);
        all.targets.extend(&batch.targets);
        all.weights.extend(&batch.weights);
        all.starts.extend(batch.starts.iter().map(|start| start + first));
        all.positions.extend(&batch.positions);
    }
    all
}

#[test]
fn accumulation_equals_the_large_batch() {
    let config = config();
    let parts = [batch(&config, &[7, 5], 14, 1), batch(&config, &[3, 9], 12, 2), batch(&config, &[10], 10, 3)];
    let mut small = trainer(&config, settings(36));
    let mut large = trainer(&config, settings(36));
    for _ in 0..3 {
        let (a, b) = (small.step(&parts).unwrap(), large.step(&[joined(&parts)]).unwrap());
        assert_eq!(a, b);
    }
    assert_eq!(weights(&small), weights(&large));
}

#[test]
fn nothing_of_the_last_step_stays_in_the_gradients() {
    for tied_head in [true, false] {
        let config = Config { tied_head, ..config() };
        let loud = batch(&config, &[10], 10, 3);
        let mut silent = batch(&config, &[3, 9], 12, 2);
        silent.weights.fill(0.0);
        let mut trainer = trainer(&config, settings(36));
        let alone = trainer.gradients_of(std::slice::from_ref(&loud)).unwrap().1.to_vec();
        // What was there is stored over, also where the first micro-batch teaches the head nothing.
        trainer.gradients_of(&[batch(&config, &[7, 5], 14, 1)]).unwrap();
        assert_eq!(trainer.gradients_of(&[silent, loud]).unwrap().1, alone, "{tied_head}");
    }
}

#[test]
fn packed_loss_equals_unpacked_loss() {
    let config = config();
    let packed = batch(&config, &[7, 5, 1, 9], 22, 4);
    let cut = |range: std::ops::Range<usize>| {
        let start = range.start as u32;
        let mut one = MicroBatch {
            tokens: packed.tokens[range.clone()].to_vec(),
            targets: packed.targets[range.clone()].to_vec(),
            weights: packed.weights[range.clone()].to_vec(),
            starts: packed.starts[range.clone()].iter().map(|at| at - start).collect(),
            positions: packed.positions[range].to_vec(),
        };
        // To an even number of tokens, by one that nobody learns from.
        if !one.len().is_multiple_of(2) {
            let end = one.len() as u32;
            one.tokens.push(0);
            one.targets.push(0);
            one.weights.push(0.0);
            one.starts.push(end);
            one.positions.push(0);
        }
        one
    };
    let unpacked = [cut(0..7), cut(7..12), cut(12..13), cut(13..22)];
    let mut trainer = trainer(&config, settings(22));
    let a = trainer.evaluate(std::slice::from_ref(&packed)).unwrap();
    let b = trainer.evaluate(&unpacked).unwrap();
    assert_eq!((a.loss.to_bits(), a.accuracy, a.tokens), (b.loss.to_bits(), b.accuracy, b.tokens));
}

#[test]
fn threads_change_no_bit() {
    let config = config();
    let batches = [batch(&config, &[7, 5], 12, 1), batch(&config, &[3, 9], 12, 2)];
    let run = |threads| {
        let mut trainer = trainer(&config, Settings { threads, ..settings(12) });
        for _ in 0..3 {
            trainer.step(&batches).unwrap();
        }
        weights(&trainer)
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}
