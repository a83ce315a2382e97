//! What was trained is what is served: logits through the decoder that serves.

use falaj_artifact::{Digest, ModelFiles, Verified};
use falaj_kernels::{Format, KvFormat, Ops, Pool, RopeLayout};
use falaj_model::{Batch, Config, KvCache, LoadOptions, Model, PAGE_TOKENS, Want, Workspace, export, load};
use falaj_train::{Arena, MicroBatch};

use crate::small::{arena, config, settings, trainer};

/// Through GGUF and the ordinary loader. The bytes are leaked: tests are short.
pub fn served(arena: &Arena, format: Format) -> Model {
    let source = export::Source {
        config: arena.config(),
        layout: arena.config().rope.layout,
        values: |slot| arena.get(slot).to_vec(),
    };
    let bytes = source.write_gguf(&Ops::best(), &[], |_| format, Vec::new()).unwrap();
    let digest = Digest::of(&bytes);
    let files = Verified::<ModelFiles>::embedded(bytes.leak(), digest).unwrap();
    load(&files, LoadOptions { threads: 2, ..LoadOptions::default() }).unwrap()
}

/// Logits after each of `tokens`, (tokens, V).
pub fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE_TOKENS) as u32).collect();
    let mut cache = KvCache::new(model.config(), KvFormat::F32, pages.len()).unwrap();
    let mut ws = Workspace::new(model, Pool::new(2), tokens.len(), tokens.len()).unwrap();
    let mut batch = Batch::default();
    batch.sequence(&pages);
    for (i, token) in tokens.iter().enumerate() {
        batch.push(*token, i as u32, Want::Logits);
    }
    model.forward(&mut ws, &mut cache, &batch).unwrap();
    (0..tokens.len()).flat_map(|row| ws.logits(row).unwrap().to_vec()).collect()
}

#[test]
fn trainer_and_server_have_the_same_logits() {
    let pairs = Config { sliding_window: Some(5), tied_head: false, ..config() };
    let pairs = Config { rope: falaj_model::Rope { layout: RopeLayout::Interleaved, ..pairs.rope.clone() }, ..pairs };
    for config in [config(), pairs] {
        let tokens: Vec<u32> = (0..24).map(|i| (i * i * 5 + 3) % config.vocab_size as u32).collect();
        let mut trainer = trainer(&config, settings(24));
        let batch = MicroBatch::plain(tokens.clone(), vec![0; 24], 24);
        let trained = trainer.logits(&batch).unwrap();
        let served = logits(&served(&arena(&config), Format::F32), &tokens);
        let spread = served.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
        let off = trained.iter().zip(&served).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        // Inputs of the trainer's products have 8 bits.
        assert!(off < 0.03 * spread, "{off} of {spread}");
    }
}
