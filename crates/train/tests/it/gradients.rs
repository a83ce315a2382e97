//! The gradient of the whole decoder against finite differences of a reference in f64. The trainer rounds inputs of products to
//! bf16, shares and slopes inside attention among them, so single values may differ by percents, and a parameter by a few; a mistake in the mathematics moves a whole parameter's gradient.

use falaj_kernels::RopeLayout;
use falaj_model::{Config, Slot};
use falaj_train::{MicroBatch, Settings, Trainer};

use crate::reference::Reference;
use crate::small::{arena, batch, config, settings, trainer};

/// ‖g − reference‖ / ‖reference‖ of each parameter.
fn compare(trainer: &mut Trainer, reference: &mut Reference, batch: &MicroBatch) -> Vec<(Slot, f64)> {
    let (loss, gradients) = trainer.gradients_of(std::slice::from_ref(batch)).unwrap();
    let expected = reference.loss(batch);
    assert!((loss - expected).abs() < 5e-3 * expected, "loss {loss}, reference {expected}");
    let gradients = gradients.to_vec();
    let mut at = 0;
    let mut found = Vec::new();
    for place in 0..reference.parameters.len() {
        let (slot, len) = (reference.parameters[place].0, reference.parameters[place].1.len());
        let (mut off, mut norm) = (0.0, 0.0);
        // A third of the values of matrices, all of the norms.
        for i in (0..len).step_by(if len > 100 { 3 } else { 1 }) {
            let expected = reference.derivative(place, i, batch);
            off += (f64::from(gradients[at + i]) - expected).powi(2);
            norm += expected * expected;
        }
        found.push((slot, (off / norm).sqrt()));
        at += len;
    }
    found
}

fn check(config: &Config, settings: Settings) {
    let mut trainer = trainer(config, settings);
    let mut reference = Reference::of(&arena(config));
    let batch = batch(config, &[7, 1, 4], 14, 1);
    for (slot, error) in compare(&mut trainer, &mut reference, &batch) {
        assert!(error < 0.05, "{slot:?}: {error}");
    }
}

#[test]
fn gradients_are_those_of_the_reference() {
    check(&config(), settings(16));
}

#[test]
fn without_tying_in_pairs_and_in_a_window() {
    let mut config = Config { tied_head: false, sliding_window: Some(3), ..config() };
    config.rope.layout = RopeLayout::Interleaved;
    check(&config, settings(16));
}

#[test]
fn recomputed_activations_give_the_same_bits() {
    let (config, kept) = (config(), settings(16));
    let again = Settings { recompute: true, ..kept.clone() };
    let batch = [batch(&config, &[7, 5], 12, 2)];
    let [a, b] = [kept, again].map(|settings| trainer(&config, settings).gradients_of(&batch).unwrap().1.to_vec());
    assert_eq!(a, b);
}
