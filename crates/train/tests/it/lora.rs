//! Adapters: their gradients against finite differences through merged weights, over a quantised base, and with dropout.

use falaj_artifact::{Digest, ModelFiles, Verified};
use falaj_kernels::{Format, Ops};
use falaj_model::{Config, Params, export, parameters};
use falaj_train::{Arena, Lora, Settings, Start, Target, Trainer};

use crate::reference::Reference;
use crate::small::{arena, batch, config, settings};

/// The parameters of a small decoder as a GGUF in `format` has them.
fn base(config: &Config, format: Format) -> (Config, Params) {
    let arena = arena(config);
    let source = export::Source { config, layout: config.rope.layout, values: |slot| arena.get(slot).to_vec() };
    let format = |slot| export::or_wider(config, slot, format);
    let bytes = source.write_gguf(&Ops::best(), &[], format, Vec::new()).unwrap();
    let digest = Digest::of(&bytes);
    parameters(&Verified::<ModelFiles>::embedded(bytes.leak(), digest).unwrap(), &Ops::best()).unwrap()
}

fn start(config: &Config, format: Format, dropout: f32) -> Start {
    let (config, base) = base(config, format);
    Start::Lora { config, base, lora: Lora { rank: 4, alpha: 12.0, dropout, targets: Target::ALL.to_vec() } }
}

/// The reference with every parameter as it would be after a merge.
fn merged(trainer: &Trainer) -> Reference {
    let mut arena = Arena::zeros(trainer.config()).unwrap();
    let slots: Vec<_> = arena.slots().collect();
    for slot in slots {
        arena.get_mut(slot).copy_from_slice(&trainer.merged(slot));
    }
    Reference::of(&arena)
}

#[test]
fn gradients_of_an_adapter_are_those_of_the_merged_weights() {
    let config = config();
    let mut trainer = Trainer::new(start(&config, Format::F32, 0.0), settings(16)).unwrap();
    let batch = batch(&config, &[7, 1, 4], 14, 1);
    // One step, so that B is not zero.
    trainer.step(std::slice::from_ref(&batch)).unwrap();
    let (loss, gradients) = trainer.gradients_of(std::slice::from_ref(&batch)).unwrap();
    let gradients = gradients.to_vec();
    assert!((loss - merged(&trainer).loss(&batch)).abs() < 5e-3 * loss);
    let (mut off, mut norm) = (0.0, 0.0);
    for i in (0..gradients.len()).step_by(7) {
        let mut at = |step: f32| {
            let value = trainer.replace(i, None);
            trainer.replace(i, Some(value + step));
            let loss = merged(&trainer).loss(&batch);
            trainer.replace(i, Some(value));
            loss
        };
        let expected = (at(1e-3) - at(-1e-3)) / 2e-3;
        off += (f64::from(gradients[i]) - expected).powi(2);
        norm += expected * expected;
    }
    let error = (off / norm).sqrt();
    assert!(error < 0.03, "{error}");
}

#[test]
fn a_quantised_base_learns_and_stays() {
    let config = Config { hidden_size: 32, ffn_size: 64, head_dim: 8, ..config() };
    let optimization = falaj_train::Optimization { learning_rate: 1e-2, ..Default::default() };
    let settings = Settings { optimization, ..settings(24) };
    let batches = [batch(&config, &[12, 12], 24, 2)];
    let mut losses = Vec::new();
    for dropout in [0.0, 0.2] {
        let mut trainer = Trainer::new(start(&config, Format::Q4_0, dropout), settings.clone()).unwrap();
        let first = trainer.evaluate(&batches).unwrap().loss;
        for _ in 0..30 {
            losses.push(trainer.step(&batches).unwrap().loss);
        }
        let last = trainer.evaluate(&batches).unwrap().loss;
        assert!(last < 0.9 * first, "{first} {last}");
    }
    assert_ne!(losses[1], losses[31]);
}

#[test]
fn dropout_does_not_depend_on_the_cut_into_micro_batches() {
    let config = config();
    let (a, b) = (batch(&config, &[12], 12, 1), batch(&config, &[10], 10, 2));
    let mut joined = a.clone();
    joined.tokens.extend(&b.tokens);
    joined.targets.extend(&b.targets);
    joined.weights.extend(&b.weights);
    joined.starts.extend(b.starts.iter().map(|start| start + 12));
    joined.positions.extend(&b.positions);
    let mut one = Trainer::new(start(&config, Format::F32, 0.3), settings(22)).unwrap();
    let mut two = Trainer::new(start(&config, Format::F32, 0.3), settings(22)).unwrap();
    for _ in 0..3 {
        let (x, y) = (one.step(&[a.clone(), b.clone()]).unwrap(), two.step(std::slice::from_ref(&joined)).unwrap());
        assert_eq!(x, y);
    }
}

#[test]
fn an_adapter_goes_on_with_a_text_to_the_same_bits() {
    let start = start(&config(), Format::Q8_0, 0.1);
    crate::reading::check(&mut Trainer::new(start, settings(24)).unwrap());
}
