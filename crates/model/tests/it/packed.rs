//! Files of panels: the same bits as the file they were made from, and errors where they lie.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use falaj_artifact::gguf::{Gguf, GgufWriter};
use falaj_artifact::{ArtifactError, Digest, ModelFiles, Verified};
use falaj_kernels::{Format, KvFormat};
use falaj_model::synthetic::{Checkpoint, tiny_config};
use falaj_model::{Config, Experts, LoadOptions, Model, ModelError, Naming, Slot, load, optimize, perplexity};

use crate::golden::Golden;
use crate::run::{load_gguf, logits, max_abs_diff};

/// A file of its own for the time of a test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("packed-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.join("model.gguf")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn packed(source: &[u8]) -> Result<Vec<u8>, ModelError> {
    let scratch = Scratch::new();
    let files = Verified::<ModelFiles>::embedded(source.to_vec().leak(), Digest::of(source))?;
    let mut shares = Vec::new();
    optimize(&files, &scratch.path(), &mut |progress| shares.push((progress.done_bytes, progress.total_bytes)))?;
    assert!(shares.is_sorted() && shares.last().is_some_and(|(done, total)| done == total));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "nothing is left beside the result");
    Ok(fs::read(scratch.path()).unwrap())
}

/// Norms, RoPE factors, experts, a tied head and rows that fill no panel; formats with panels and without.
fn sources() -> Vec<Vec<u8>> {
    let golden = |json: &str| Golden::parse(json).checkpoint();
    let mixed = |slot| match slot {
        Slot::Query { .. } | Slot::Gate { .. } => Format::Q4_K,
        Slot::Key { .. } | Slot::Up { .. } => Format::BF16,
        Slot::Down { .. } => Format::Q6_K,
        Slot::Router { .. } => Format::F32,
        Slot::Output { .. } => Format::F16,
        _ => Format::Q8_0,
    };
    let odd = Config { tied_head: true, ..tiny_config(50, 64) };
    vec![
        golden(include_str!("../golden/llama3_rope.json")).gguf(|_| Format::Q5_K).unwrap(),
        golden(include_str!("../golden/mixtral.json")).gguf(mixed).unwrap(),
        Checkpoint::new(odd, 3).unwrap().gguf(|_| Format::Q4_0).unwrap(),
        Checkpoint::new(tiny_config(50, 64), 3).unwrap().gguf(|_| Format::BF16).unwrap(),
    ]
}

#[test]
fn panels_give_the_bits_of_the_source() {
    let tokens: Vec<u32> = (0..40).collect();
    for source in sources() {
        let panels = packed(&source).unwrap();
        let (ours, theirs) = (Gguf::parse(&panels).unwrap(), Gguf::parse(&source).unwrap());
        assert_eq!(ours.str("general.architecture").unwrap(), "falaj-panels");
        assert!(ours.tensors.values().all(|entry| entry.range.start.is_multiple_of(64)));
        assert_eq!(ours.get::<u32>("llama.context_length").unwrap(), theirs.get("llama.context_length").unwrap());
        let scratch = Scratch::new();
        fs::write(scratch.path(), &panels).unwrap();
        let (files, _) = Verified::as_found(&scratch.path(), "m", &mut |_| ()).unwrap();
        let (mapped, original) = (load(&files, LoadOptions::default()).unwrap(), load_gguf(source, None).unwrap());
        assert_eq!(mapped.config(), original.config());
        assert_eq!(mapped.parameter_count(), original.parameter_count());
        let logits = |model: &Model| logits(model, &tokens, KvFormat::F16, 16);
        assert!(logits(&mapped) == logits(&original));
    }
}

#[test]
fn what_is_no_source_is_an_error() {
    let panels = packed(&sources()[3]).unwrap();
    let message = |result: Result<Vec<u8>, ModelError>| result.err().map(|error| error.to_string());
    assert_eq!(message(packed(&panels)).unwrap(), "the model is in panels already; there is nothing to optimize");
    assert!(packed(b"GGUF").is_err());

    let scratch = Scratch::new();
    let checkpoint = Checkpoint::new(tiny_config(64, 128), 0).unwrap();
    fs::write(scratch.0.join("config.json"), crate::hostile::HF).unwrap();
    let bytes = checkpoint.safetensors(Naming::HuggingFace, Format::F32).unwrap();
    fs::write(scratch.0.join("model.safetensors"), bytes).unwrap();
    let (files, _) = Verified::as_found(&scratch.0, "m", &mut |_| ()).unwrap();
    assert!(matches!(optimize(&files, &scratch.path(), &mut |_| ()), Err(ModelError::NotGguf)));
    let gguf = checkpoint.gguf(|_| Format::Q8_0).unwrap();
    let files = Verified::<ModelFiles>::embedded(gguf.clone().leak(), Digest::of(&gguf)).unwrap();
    let nowhere = scratch.0.join("nowhere/model.gguf");
    assert!(matches!(optimize(&files, &nowhere, &mut |_| ()), Err(ModelError::Write { .. })));
}

#[test]
fn panels_that_lie_are_errors() {
    let panels = packed(&sources()[3]).unwrap();
    let load = |bytes: &[u8]| load_gguf(bytes.to_vec(), None);
    assert!(load(&panels).is_ok());
    assert!(matches!(load(&panels[..panels.len() - 64]), Err(ModelError::Artifact(ArtifactError::OutsideFile { .. }))));
    let with = |key: &str, value: u32| {
        let at = panels.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len() + 4;
        let mut bytes = panels.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        load(&bytes).err().map_or_else(String::new, |error| error.to_string())
    };
    assert_eq!(
        with("falaj.layout", 2),
        "`falaj.layout` is 2 in the configuration, but this program reads another version, so optimize the model again; the file is damaged or of another kind of model"
    );
    // 49 rows and 50 take the same panels; the embedding is as long as it says.
    assert!(with("llama.vocab_size", 49).contains("has the shape [50, 64], the configuration asks for [49, 64]"));
    assert!(with("llama.vocab_size", 0).contains("it must be at least 1"));
    assert!(with("llama.feed_forward_length", 120).contains("has the shape"));
    // A file of rows that says it is one of panels.
    let rows = Checkpoint::new(tiny_config(50, 64), 3).unwrap().gguf(|_| Format::BF16).unwrap();
    let gguf = Gguf::parse(&rows).unwrap();
    let mut writer = GgufWriter::new("falaj-panels");
    for (key, value) in gguf.metadata.iter().filter(|(key, _)| *key != "general.architecture") {
        writer = writer.set(key, value.clone());
    }
    writer = writer.set("falaj.layout", 1_u32).set("falaj.architecture", "llama");
    for (name, entry) in &gguf.tensors {
        writer = writer.tensor(name, entry.dtype, &entry.shape).unwrap();
    }
    let bytes = writer.write(Vec::new(), gguf.tensors.values().map(|entry| entry.bytes(&rows).unwrap())).unwrap();
    assert!(matches!(load(&bytes), Err(ModelError::Shape { .. })));
}

#[test]
fn damaged_panels_never_panic() {
    let experts = Some(Experts { count: 2, used: 1 });
    let config = Config { experts, layers: 1, hidden_size: 32, ffn_size: 32, ..tiny_config(16, 32) };
    let bytes = packed(&Checkpoint::new(config, 0).unwrap().gguf(|_| Format::Q8_0).unwrap()).unwrap();
    let header = Gguf::parse(&bytes).unwrap().data_offset;
    for at in 0..header {
        for new in [0, 1, 0x7fff_ffff, u32::MAX].map(u32::to_le_bytes) {
            let mut damaged = bytes.clone();
            damaged[at..at + 4].copy_from_slice(&new);
            if let Ok(model) = load_gguf(damaged, None) {
                let _ = crate::hostile::forward(&model);
            }
        }
    }
}

/// Of a model whose weights say nothing about the text: near that of guessing, the same whoever measures, and near the
/// reference with the same weights in f32: 1e-3 at most, measured, and a trained model's is nearer.
#[test]
fn perplexity_of_a_format_is_near_the_reference() {
    let golden = Golden::parse(include_str!("../golden/llama_gqa.json"));
    let tokens: Vec<u32> = (0..300_u32).map(|i| (i * i * 7 + i) % 256).collect();
    for format in [Format::Q8_0, Format::Q4_0, Format::Q4_K, Format::BF16] {
        let bytes = golden.checkpoint().gguf(|_| format).unwrap();
        let files = Verified::<ModelFiles>::embedded(bytes.clone().leak(), Digest::of(&bytes)).unwrap();
        let reference = load(&files, LoadOptions { dequantize: true, ..LoadOptions::default() }).unwrap();
        let model = load(&files, LoadOptions::default()).unwrap();
        let expected = perplexity(&reference, &tokens, 150, KvFormat::F32, 2).unwrap();
        let found = perplexity(&model, &tokens, 150, KvFormat::F32, 1).unwrap();
        assert_eq!((expected.tokens, found.tokens), (298, 298));
        assert!((found.value() / expected.value() - 1.0).abs() < 3e-3, "{format}: {found:?} {expected:?}");

        // By hand, from the first window's logits.
        let rows = logits(&reference, &tokens[..150], KvFormat::F32, 150);
        let nll: f64 = rows
            .iter()
            .zip(&tokens[1..150])
            .map(|(row, &next)| {
                let total: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
                total.ln() - f64::from(row[next as usize])
            })
            .sum();
        let first = perplexity(&reference, &tokens[..150], 1000, KvFormat::F32, 1).unwrap();
        assert!((first.nll - nll / 149.0).abs() < 1e-9);
        let dequantized = load_gguf(bytes, None).unwrap();
        assert!(max_abs_diff(&rows, &logits(&dequantized, &tokens[..150], KvFormat::F32, 150)) < 5e-2);
    }
}

/// A row's bits do not depend on whether the last layer was computed for the others.
#[test]
fn rows_that_want_nothing_change_nothing() {
    use falaj_kernels::Pool;
    use falaj_model::{Batch, KvCache, Want, Workspace};
    for source in sources() {
        let model = load_gguf(source, None).unwrap();
        let tokens: Vec<u32> = (3..33).collect();
        let all = logits(&model, &tokens, KvFormat::F16, 30);
        let mut cache = KvCache::new(model.config(), KvFormat::F16, 2).unwrap();
        let mut ws = Workspace::new(&model, Pool::new(2), 15, 15).unwrap();
        let mut batch = Batch::default();
        for start in [0, 15] {
            batch.clear();
            batch.sequence(&[1, 0]);
            for i in start..start + 15 {
                // First a chunk that wants nothing at all, then one that wants some of its rows, of both kinds.
                let want = match (start, i % 4) {
                    (0, _) | (_, 0 | 3) => Want::Nothing,
                    (_, 1) => Want::Hidden,
                    _ => Want::Logits,
                };
                batch.push(tokens[i], i as u32, want);
            }
            model.forward(&mut ws, &mut cache, &batch).unwrap();
        }
        for row in 0..15 {
            match (row + 15) % 4 {
                2 => assert!(ws.logits(row).unwrap() == all[row + 15], "row {row}"),
                1 => assert!(ws.hidden(row).is_some() && ws.logits(row).is_none()),
                _ => assert!(ws.hidden(row).is_none() && ws.logits(row).is_none()),
            }
        }
    }
}
