//! Mixtures of experts: gradients against finite differences in f64 and against PyTorch's, the same bits for any threads, logits
//! as they are served.

use falaj_kernels::Format;
use falaj_model::{Config, Experts, Slot};
use falaj_train::{Arena, MicroBatch, Settings, Start, Trainer};
use serde::Deserialize;

use crate::pytorch::{Batch, Bounds, Gradients, weights};
use crate::reference::Reference;
use crate::serving::{logits, served};
use crate::small::{arena, batch, config, settings};

fn sparse() -> Config {
    Config { experts: Some(Experts { count: 5, used: 2 }), ..config() }
}

/// The small decoder's weights with a router whose choices are far apart, so that rounding to bf16 changes none.
fn decided(config: &Config) -> Arena {
    let mut arena = arena(config);
    for layer in 0..config.layers {
        arena.get_mut(Slot::Router { layer }).iter_mut().for_each(|value| *value *= 4.0);
    }
    arena
}

fn start(config: &Config, settings: Settings) -> Trainer {
    Trainer::new(Start::Full(decided(config)), settings).unwrap()
}

#[test]
fn gradients_are_those_of_the_reference() {
    let config = sparse();
    for balance in [0.0, 0.5] {
        let mut reference = Reference::of(&decided(&config));
        let batch = batch(&config, &[7, 1, 4], 14, 1);
        assert!(reference.closest_choice(&batch) > 0.02, "{}", reference.closest_choice(&batch));
        let mut trainer = start(&config, settings(16)).with_balance(balance as f32);
        let (loss, gradients) = trainer.gradients_of(std::slice::from_ref(&batch)).unwrap();
        let gradients = gradients.to_vec();
        let expected = reference.loss(&batch);
        assert!((loss - expected).abs() < 5e-3 * expected, "loss {loss}, reference {expected}");
        reference.balance = balance;
        let (mut at, mut seen) = (0, 0);
        for place in 0..reference.parameters.len() {
            let (slot, len) = (reference.parameters[place].0, reference.parameters[place].1.len());
            let (mut off, mut norm) = (0.0, 0.0);
            for i in (0..len).step_by(if len > 120 { 7 } else { 1 }) {
                let expected = reference.derivative(place, i, &batch);
                off += (f64::from(gradients[at + i]) - expected).powi(2);
                norm += expected * expected;
            }
            at += len;
            // An expert that nobody chose has none, exactly. The rounding of the few tokens that chose one averages less than that of
            // all; a router's gradient is a difference of what experts made, in which their rounding stays and most of their size goes.
            let most: f64 = match slot {
                Slot::Router { .. } => 0.12,
                Slot::Gate { .. } | Slot::Up { .. } | Slot::Down { .. } => 0.08,
                _ => 0.06,
            };
            assert!(off <= most.powi(2) * norm, "{slot:?}: {} (balance {balance})", (off / norm).sqrt());
            seen += usize::from(norm > 0.0 && matches!(slot, Slot::Router { .. } | Slot::Down { expert: Some(_), .. }));
        }
        assert!(seen > 6, "only {seen} routers and experts were used");
    }
}

#[test]
fn threads_and_recomputation_change_no_bit() {
    let config = sparse();
    let batches = [batch(&config, &[7, 5], 12, 2), batch(&config, &[9, 3], 12, 4)];
    let run = |threads, recompute| {
        let mut trainer = start(&config, Settings { threads, recompute, ..settings(12) });
        let losses: Vec<f64> = (0..4).map(|_| trainer.step(&batches).unwrap().loss).collect();
        (losses, trainer.last_gradients().to_vec())
    };
    let one = run(1, false);
    for (threads, recompute) in [(2, false), (5, false), (2, true)] {
        assert_eq!(run(threads, recompute), one, "{threads} threads, recomputing {recompute}");
    }
    assert!(one.0[3] < one.0[0], "{:?}", one.0);
}

#[test]
fn an_expert_that_nobody_chose_keeps_nothing_of_the_step_before() {
    let config = sparse();
    let (many, few) = (batch(&config, &[7, 5], 12, 2), batch(&config, &[2], 2, 4));
    let fresh = start(&config, settings(12)).gradients_of(std::slice::from_ref(&few)).unwrap().1.to_vec();
    let mut used = start(&config, settings(12));
    used.gradients_of(std::slice::from_ref(&many)).unwrap();
    assert_eq!(used.gradients_of(std::slice::from_ref(&few)).unwrap().1, fresh);
    assert!(fresh.iter().filter(|value| **value == 0.0).count() > fresh.len() / 3, "one token leaves experts idle");
}

#[test]
fn trained_mixtures_are_served() {
    let config = Config { hidden_size: 64, ffn_size: 96, head_dim: 16, ..sparse() };
    let tokens: Vec<u32> = (0..24).map(|i| (i * i * 5 + 3) % config.vocab_size as u32).collect();
    let mut trainer = start(&config, settings(24));
    let trained = trainer.logits(&MicroBatch::plain(tokens.clone(), vec![0; 24], 24)).unwrap();
    let there = logits(&served(&decided(&config), Format::F32), &tokens);
    let spread = there.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let mut off: Vec<f32> = trained.iter().zip(&there).map(|(a, b)| (a - b).abs()).collect();
    off.sort_by(f32::total_cmp);
    // A token whose choice lies on the edge may go elsewhere after rounding; nine in ten do not.
    assert!(off[off.len() * 9 / 10] < 0.1 * spread, "{} of {spread}", off[off.len() * 9 / 10]);
}

#[test]
fn experts_get_no_adapters_and_attention_does() {
    let config = sparse();
    let model = served(&arena(&config), Format::F32);
    let trainer = |targets: &[falaj_train::Target]| {
        let lora = falaj_train::Lora { rank: 4, alpha: 8.0, dropout: 0.0, targets: targets.to_vec() };
        let (config, base) = (model.config().clone(), model.params().clone());
        Trainer::new(Start::Lora { config, base, lora }, settings(12))
    };
    use falaj_train::Target::{Query, Up, Value};
    let error = trainer(&[Query, Up]).unwrap_err().to_string();
    assert!(error.contains("up_proj") && error.contains("q, k, v, o"), "{error}");
    let mut adapted = trainer(&[Query, Value]).unwrap();
    let batches = [batch(&config, &[7, 5], 12, 2)];
    let losses: Vec<f64> = (0..30).map(|_| adapted.step(&batches).unwrap().loss).collect();
    assert!(losses[29] < losses[0], "{losses:?}");
}

#[derive(Deserialize)]
struct Golden {
    count: usize,
    used: usize,
    balance: f32,
    #[serde(flatten)]
    batch: Batch,
    loss: f64,
    gradients: Gradients,
}

/// `tests/golden/mixture.json`, made by PyTorch's autograd in f32.
#[test]
fn gradients_are_pytorchs() {
    let golden: Golden = serde_json::from_str(include_str!("../golden/mixture.json")).unwrap();
    let experts = Some(Experts { count: golden.count, used: golden.used });
    let config = Config { tied_head: true, experts, ..falaj_model::synthetic::tiny_config(96, 64) };
    let trainer = Trainer::new(Start::Full(weights(&config, 8.0)), Settings { max_tokens: 32, ..settings(32) });
    let mut trainer = trainer.unwrap().with_balance(golden.balance);
    let (loss, gradients) = trainer.gradients_of(&[golden.batch.micro()]).unwrap();
    assert!((loss - golden.loss).abs() < 3e-3 * golden.loss, "{loss} {}", golden.loss);
    golden.gradients.check(&config, gradients, Bounds { norm: 0.04, value: 0.05, typical: 0.2 });
}
