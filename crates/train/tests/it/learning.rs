//! Learning from preferences and from a teacher: gradients against finite differences of the same loss in f64.

use falaj_kernels::Ops;
use falaj_model::Params;
use falaj_train::{Distillation, MicroBatch, Optimization, Preference, Settings, Start, Teacher, Trainer};

use crate::reference::{Reference, softmax};
use crate::small::{arena, batch, config, settings, trainer};

/// Of each parameter, by the difference that a tiny step of plain descent made: AdamW hides the gradient's size, so the gradient is
/// read from the trainer.
fn compare(gradients: &[f32], reference: &mut Reference, loss: impl Fn(&Reference) -> f64) {
    let mut at = 0;
    for place in 0..reference.parameters.len() {
        let (slot, len) = (reference.parameters[place].0, reference.parameters[place].1.len());
        let (mut off, mut norm) = (0.0, 0.0);
        for i in (0..len).step_by(if len > 100 { 11 } else { 3 }) {
            let value = reference.parameters[place].1[i];
            let mut moved = |to: f64| {
                reference.parameters[place].1[i] = to;
                loss(reference)
            };
            let expected = (moved(value + 1e-4) - moved(value - 1e-4)) / 2e-4;
            moved(value);
            off += (f64::from(gradients[at + i]) - expected).powi(2);
            norm += expected * expected;
        }
        let error = (off / norm).sqrt();
        assert!(error < 0.05, "{slot:?}: {error}");
        at += len;
    }
}

#[test]
fn preferences_have_the_gradient_of_their_loss() {
    let config = config();
    let batch = batch(&config, &[5, 4, 3, 6], 18, 1);
    let preference = Preference { beta: 0.5, label_smoothing: 0.1 };
    // The weights are no longer where they began, or the margin would be zero.
    let began = Reference::of(&arena(&config));
    let mut trainer = trainer(
        &config,
        Settings { optimization: Optimization { learning_rate: 3e-3, ..Default::default() }, ..settings(18) },
    );
    trainer.keep_reference();
    for _ in 0..3 {
        trainer.step(std::slice::from_ref(&batch)).unwrap();
    }
    let mut reference = Reference::of(trainer.arena().unwrap());
    let report = trainer.step_preference(std::slice::from_ref(&batch), preference).unwrap();
    let gradients = trainer.last_gradients().to_vec();
    let (first, beta) = (began.losses(&batch), f64::from(preference.beta));
    let loss = |now: &Reference| {
        let losses = now.losses(&batch);
        let gain = |range: std::ops::Range<usize>| -> f64 {
            range.map(|t| f64::from(batch.weights[t]) * (first[t] - losses[t])).sum()
        };
        let pair = |chosen, rejected| {
            let margin: f64 = beta * (gain(chosen) - gain(rejected));
            let ln_sigmoid = |x: f64| -(1.0 + (-x).exp()).ln();
            -(0.9 * ln_sigmoid(margin) + 0.1 * ln_sigmoid(-margin))
        };
        (pair(0..5, 5..9) + pair(9..12, 12..18)) / 2.0
    };
    let expected = loss(&reference);
    assert!((report.loss - expected).abs() < 0.02 * expected, "{} {expected}", report.loss);
    compare(&gradients, &mut reference, loss);
}

#[test]
fn a_teacher_gives_the_gradient_of_the_divergence() {
    let config = config();
    let batch = batch(&config, &[7, 4], 12, 1);
    let model = falaj_model::synthetic(&config, 9).unwrap();
    let params: Params = model.params().clone();
    let mut theirs = Reference::of(&arena(&config));
    for (slot, values) in &mut theirs.parameters {
        let dequantized: Vec<f32> = match params.matrix(*slot) {
            Some(weight) => weight.dequantize(&Ops::best()),
            None => params.vector(*slot).unwrap().to_vec(),
        };
        *values = dequantized.iter().map(|value| f64::from(*value)).collect();
    }
    theirs.set_layout(model.config().rope.layout);
    let mut teacher = Teacher::new(model.config(), params, 12, 2).unwrap();
    let mut trainer = trainer(&config, settings(12));
    let mut reference = Reference::of(&arena(&config));
    let how = Distillation { temperature: 2.0, share: 0.7 };
    let report = trainer.step_distillation(std::slice::from_ref(&batch), &mut teacher, how).unwrap();
    let gradients = trainer.last_gradients().to_vec();
    let wanted = theirs.logits(&batch);
    let loss = |now: &Reference| {
        let (logits, hard) = (now.logits(&batch), now.losses(&batch));
        let mut sum = 0.0;
        for t in 0..batch.len() {
            let soft = |logits: &[f64]| softmax(&logits.iter().map(|logit| logit / 2.0).collect::<Vec<_>>());
            let (p, q) = (soft(&logits[t]), soft(&wanted[t]));
            let divergence: f64 = p.iter().zip(&q).map(|(p, q)| q * (q / p).ln()).sum();
            sum += f64::from(batch.weights[t]) * (0.3 * hard[t] + 0.7 * 4.0 * divergence);
        }
        sum / batch.weight()
    };
    let expected = loss(&reference);
    assert!((report.loss - expected).abs() < 0.01 * expected, "{} {expected}", report.loss);
    compare(&gradients, &mut reference, loss);
}

#[test]
fn muon_and_adamw_bring_the_loss_down() {
    let config = config();
    let batches = [batch(&config, &[12, 12], 24, 2)];
    for rule in [falaj_train::Rule::AdamW, falaj_train::Rule::Muon] {
        let optimization = Optimization { rule, learning_rate: 5e-3, ..Optimization::default() };
        let mut trainer = trainer(&config, Settings { optimization, ..settings(24) });
        let first = trainer.evaluate(&batches).unwrap().loss;
        for _ in 0..40 {
            trainer.step(&batches).unwrap();
        }
        let last = trainer.evaluate(&batches).unwrap().loss;
        assert!(last < 0.5 * first, "{rule:?}: {first} {last}");
    }
}

#[test]
fn batches_that_are_no_pairs_are_refused() {
    let config = config();
    let mut trainer = trainer(&config, settings(12));
    let preference = Preference { beta: 0.1, label_smoothing: 0.0 };
    let one = [batch(&config, &[12], 12, 1)];
    assert!(trainer.step_preference(&one, preference).is_err());
    let two = [batch(&config, &[6, 6], 12, 1)];
    // Nobody kept what it began as.
    assert!(trainer.step_preference(&two, preference).is_err());
    let empty = [MicroBatch::default()];
    assert!(trainer.step(&empty).is_err());
    let start = Start::Full(arena(&config));
    assert!(Trainer::new(start, Settings { max_tokens: 3, ..settings(12) }).is_err());
}
