//! A text that the model goes on with: the same bits, whatever of it was read before.

use falaj_kernels::{Isa, Ops};
use falaj_model::{Config, Experts};
use falaj_train::{MicroBatch, Reading, Settings, Start, Trainer};

use crate::small::{arena, batch, config, settings};

#[test]
fn going_on_gives_the_bits_of_reading_again() {
    let windowed = Config { sliding_window: Some(5), ..config() };
    let sparse = Config { experts: Some(Experts { count: 5, used: 2 }), ..config() };
    for config in [config(), windowed, sparse] {
        for isa in Isa::available() {
            let start = Start::Full(arena(&config));
            check(&mut Trainer::with_ops(start, settings(24), Ops::new(isa)).unwrap());
        }
        let settings = Settings { recompute: true, ..settings(24) };
        check(&mut Trainer::new(Start::Full(arena(&config)), settings).unwrap());
    }
}

/// For any trainer with room for 24 tokens.
pub fn check(trainer: &mut Trainer) {
    let config = trainer.config().clone();
    let tokens: Vec<u32> = (0..24).map(|i| (i * i * 5 + 3) % config.vocab_size as u32).collect();
    let batch = batch(&config, &[7, 5], 12, 2);
    let mut reading = Reading::default();
    for _ in 0..2 {
        // Further, one by one and more at once; back; and the same again.
        for count in [5, 6, 7, 8, 11, 24, 9, 9, 20] {
            let logits = trainer.logits_behind(&mut reading, &tokens[..count]).unwrap();
            let again = trainer.logits_behind(&mut Reading::default(), &tokens[..count]).unwrap();
            assert_eq!(logits, again, "{count} tokens");
            if count.is_multiple_of(2) {
                let whole = MicroBatch::plain(tokens[..count].to_vec(), vec![0; count], count);
                let rows = trainer.logits(&whole).unwrap();
                assert_eq!(logits, rows[rows.len() - config.vocab_size..], "{count} tokens");
            }
        }
        // Another text with the same end, then other weights.
        let other: Vec<u32> = std::iter::once(1).chain(tokens[1..9].iter().copied()).collect();
        let logits = trainer.logits_behind(&mut reading, &other).unwrap();
        assert_eq!(logits, trainer.logits_behind(&mut Reading::default(), &other).unwrap());
        trainer.step(std::slice::from_ref(&batch)).unwrap();
    }
    let most = trainer.logits_behind(&mut reading, &tokens).unwrap();
    let likely = trainer.most_likely(&mut reading, &tokens).unwrap();
    assert!(most.iter().all(|logit| *logit <= most[likely as usize]));
    assert!(trainer.most_likely(&mut reading, &[]).is_err());
    assert!(trainer.most_likely(&mut reading, &[0; 26]).is_err());
}
