//! Adapters over a model: what a merged model computes, whatever else is in the batch; and those that do not belong.

use std::sync::Arc;

use falaj_artifact::{AdapterConfig, ArtifactError, Verified};
use falaj_kernels::{Format, Isa, KvFormat, Pool};
use falaj_model::synthetic::{AdapterSample, Checkpoint, synthetic, tiny_config};
use falaj_model::{
    Adapter, Batch, Config, Experts, KvCache, LoadOptions, Model, ModelError, PAGE_TOKENS, Want, Workspace, load,
};

use crate::run::{load_gguf, max_abs_diff};

const TOKENS: usize = 40;

fn tokens(seed: u32) -> Vec<u32> {
    (0..TOKENS as u32).map(|i| (seed * 31 + i * i * 7 + i * 3) % 97).collect()
}

/// Logits of every position of each sequence, with its adapter or none, all in one batch per step of `chunk` positions.
fn together(
    model: &Model,
    threads: usize,
    chunk: usize,
    sequences: &[(u32, Option<&Arc<Adapter>>)],
) -> Vec<Vec<Vec<f32>>> {
    let pages = TOKENS.div_ceil(PAGE_TOKENS) as u32;
    let mut cache = KvCache::new(model.config(), KvFormat::F16, pages as usize * sequences.len()).unwrap();
    let rows = chunk * sequences.len();
    let mut ws = Workspace::new(model, Pool::new(threads), rows, rows).unwrap();
    let mut batch = Batch::default();
    let mut all = vec![Vec::new(); sequences.len()];
    for first in (0..TOKENS).step_by(chunk) {
        batch.clear();
        let mut places = Vec::new();
        for (number, (seed, adapter)) in (0..).zip(sequences) {
            let table: Vec<u32> = (0..pages).map(|page| number * pages + page).collect();
            batch.sequence(&table);
            if let Some(adapter) = adapter {
                batch.adapt(adapter);
            }
            for (position, token) in tokens(*seed).into_iter().enumerate().skip(first).take(chunk) {
                places.push((number as usize, batch.push(token, position as u32, Want::Logits)));
            }
        }
        model.forward(&mut ws, &mut cache, &batch).unwrap();
        for (number, row) in places {
            all[number].push(ws.logits(row).unwrap().to_vec());
        }
    }
    all
}

fn alone(model: &Model, sequence: (u32, Option<&Arc<Adapter>>)) -> Vec<Vec<f32>> {
    together(model, 1, TOKENS, &[sequence]).remove(0)
}

#[test]
fn an_adapter_is_its_merged_model() {
    let config = tiny_config(97, 128);
    let checkpoint = Checkpoint::new(config.clone(), 3).unwrap();
    for (sample, format) in [
        (AdapterSample::new(&config, 8, 1), Format::F32),
        (AdapterSample::new(&config, 5, 2), Format::F32),
        (AdapterSample::new(&config, 4, 3).of(&["q_proj", "v_proj"]), Format::F32),
        (AdapterSample::new(&config, 2, 4).of(&["k_proj", "up_proj", "down_proj"]), Format::BF16),
    ] {
        let base = load_gguf(checkpoint.gguf(|_| format).unwrap(), None).unwrap();
        let adapter = Arc::new(sample.load(&base).unwrap());
        let merged = load_gguf(sample.merged(&checkpoint, Format::F32).unwrap(), None).unwrap();
        let (ours, theirs) = (alone(&base, (0, Some(&adapter))), alone(&merged, (0, None)));
        let (diff, effect) = (max_abs_diff(&ours, &theirs), max_abs_diff(&ours, &alone(&base, (0, None))));
        println!("{format}: {diff:.2e} to the merged model, {effect:.2e} to the base");
        // Eight bits keep a hundredth of what it changes; a base in bf16 rounds too.
        assert!(diff < if format == Format::F32 { 0.02 } else { 0.05 } * effect.max(1.0), "{diff} of {effect}");
        assert!(effect > 10.0 * diff, "it changes little: {effect}");
    }
}

/// alpha/√rank: at rank 4 the bits of twice the alpha over the rank.
#[test]
fn rank_stabilized_adapters_are_scaled_by_the_root() {
    let config = tiny_config(97, 128);
    let model = synthetic(&config, 3).unwrap();
    let logits = |sample: AdapterSample| alone(&model, (0, Some(&Arc::new(sample.load(&model).unwrap()))));
    let sample = || AdapterSample::new(&config, 4, 1);
    assert_eq!(logits(sample().with_alpha(3.0).rank_stabilized()), logits(sample().with_alpha(6.0)));
    assert_ne!(logits(sample().with_alpha(3.0).rank_stabilized()), logits(sample().with_alpha(3.0)));
}

/// The same bits alone and in company, in one piece and token by token, on every number of threads and every ISA.
#[test]
fn rows_do_not_notice_others() {
    let config = tiny_config(97, 128);
    let file = |format| Checkpoint::new(config.clone(), 3).unwrap().gguf(|_| format).unwrap();
    for format in [Format::F32, Format::Q8_0] {
        for isa in Isa::available() {
            let model = load_gguf(file(format), Some(isa)).unwrap();
            let adapters: Vec<Arc<Adapter>> =
                [(16, &["q_proj", "o_proj"][..]), (3, &["gate_proj"]), (8, &["down_proj"])]
                    .into_iter()
                    .map(|(rank, targets)| {
                        Arc::new(AdapterSample::new(&config, rank, 7).of(targets).load(&model).unwrap())
                    })
                    .chain([Arc::new(AdapterSample::new(&config, 6, 9).load(&model).unwrap())])
                    .collect();
            let sequences: Vec<_> = (0..7).map(|seed| (seed, adapters.get(seed as usize % 5))).collect();
            let expected: Vec<_> = sequences.iter().map(|sequence| alone(&model, *sequence)).collect();
            for (threads, chunk) in [(1, TOKENS), (2, 1), (3, 7), (8, 1)] {
                for count in [2, 7] {
                    let got = together(&model, threads, chunk, &sequences[..count]);
                    assert_eq!(got, expected[..count], "{format} {isa}: {threads} threads, steps of {chunk}");
                }
            }
        }
    }
}

/// Behind the last layer's attention only some rows go on, and others take their places.
#[test]
fn rows_that_want_nothing_do_not_shift_adapters() {
    let config = tiny_config(97, 128);
    let model = synthetic(&config, 3).unwrap();
    let adapter = Arc::new(AdapterSample::new(&config, 8, 1).load(&model).unwrap());
    let expected = alone(&model, (1, Some(&adapter)));
    let mut cache = KvCache::new(&config, KvFormat::F16, 6).unwrap();
    let mut ws = Workspace::new(&model, Pool::new(2), 2 * TOKENS, 2).unwrap();
    let mut batch = Batch::default();
    let last = TOKENS - 1;
    for (seed, pages, adapter) in [(0, [0, 1, 2], None), (1, [3, 4, 5], Some(&adapter))] {
        batch.sequence(&pages);
        adapter.into_iter().for_each(|adapter| batch.adapt(adapter));
        for (position, token) in tokens(seed).into_iter().enumerate() {
            batch.push(token, position as u32, if position == last { Want::Logits } else { Want::Nothing });
        }
    }
    model.forward(&mut ws, &mut cache, &batch).unwrap();
    assert_eq!(ws.logits(TOKENS + last).unwrap(), expected[last]);
    assert_eq!(ws.logits(last).unwrap(), alone(&model, (0, None))[last]);
}

#[test]
fn adapters_of_other_models_are_refused() {
    let config = tiny_config(97, 128);
    let model = synthetic(&config, 3).unwrap();
    let refused = |config: &Config| AdapterSample::new(config, 4, 1).load(&model).unwrap_err();
    let deeper = refused(&Config { layers: 3, ..config.clone() });
    assert!(matches!(&deeper, ModelError::AdapterModule { tensor } if tensor.contains("layers.2.")), "{deeper}");
    let wider = refused(&Config { ffn_size: 192, ..config.clone() });
    assert!(matches!(&wider, ModelError::AdapterShape { tensor, .. } if tensor.contains("mlp.")), "{wider}");
    let nothing = AdapterSample::new(&config, 4, 1).of(&[]).load(&model).unwrap_err();
    assert!(matches!(nothing, ModelError::AdapterEmpty));
    // Named, and not there; or a module that nothing here adapts.
    for target in ["lm_head", "w1"] {
        let error = AdapterSample::new(&config, 4, 1).of(&["q_proj", target]).load(&model).unwrap_err();
        assert!(matches!(&error, ModelError::AdapterTarget { .. }), "{error}");
    }
    let experts = Config { experts: Some(Experts { count: 2, used: 1 }), ..config.clone() };
    let mixture = synthetic(&experts, 1).unwrap();
    AdapterSample::new(&experts, 4, 1).load(&mixture).unwrap();
    let dense = AdapterSample::new(&config, 4, 1).load(&mixture).unwrap_err();
    assert!(matches!(dense, ModelError::AdapterModule { .. }), "{dense}");

    // Loaded for another model than the one that runs it.
    let other = synthetic(&Config { layers: 1, ..config.clone() }, 3).unwrap();
    let stranger = Arc::new(AdapterSample::new(other.config(), 4, 1).load(&other).unwrap());
    let mut batch = Batch::default();
    batch.sequence(&[0]);
    batch.adapt(&stranger);
    batch.push(1, 0, Want::Logits);
    let mut cache = KvCache::new(&config, KvFormat::F16, 1).unwrap();
    let mut ws = Workspace::new(&model, Pool::new(1), 1, 1).unwrap();
    assert!(matches!(model.forward(&mut ws, &mut cache, &batch), Err(ModelError::AdapterMisfit)));
}

#[test]
fn files_are_read_as_what_they_are() {
    let config = tiny_config(97, 128);
    let model = synthetic(&config, 3).unwrap();
    let dir = std::env::temp_dir().join(format!("falaj-adapter-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let files = AdapterSample::new(&config, 4, 1).files().unwrap();
    for (name, bytes) in &files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    let verified = || Verified::as_found(&dir, "adapter", &mut |_| ()).map(|(files, _)| files);
    let adapter = Adapter::load(&verified().unwrap(), &model).unwrap();
    assert_eq!((adapter.rank(), adapter.digest()), (4, verified().unwrap().digest()));
    assert!(matches!(load(&verified().unwrap(), LoadOptions::default()), Err(ModelError::IsAdapter)));
    // Not numbers.
    let mut broken = files[AdapterConfig::WEIGHTS].clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(dir.join(AdapterConfig::WEIGHTS), broken).unwrap();
    assert!(matches!(Adapter::load(&verified().unwrap(), &model), Err(ModelError::NotNumbers { .. })));
    let dora = r#"{"peft_type":"LORA","r":4,"lora_alpha":8,"use_dora":true}"#;
    std::fs::write(dir.join(AdapterConfig::FILE), dora).unwrap();
    let error = verified().unwrap_err();
    assert!(matches!(error, ArtifactError::UnsupportedAdapter { .. }), "{error}");
    std::fs::remove_dir_all(&dir).unwrap();
}
