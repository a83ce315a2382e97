//! Files that lie, lack or surprise: every one is an error that names the cause, never a panic and never an allocation by
//! what a file merely claims.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use expect_test::{Expect, expect};
use falaj_artifact::Catalog;
use falaj_artifact::gguf::{Gguf, GgufWriter};
use falaj_kernels::{Format, KvFormat, Pool};
use falaj_model::synthetic::{Checkpoint, tiny_config};
use falaj_model::{
    Batch, Config, Experts, KvCache, LoadOptions, Model, ModelError, Naming, Slot, Want, Workspace, load,
};

use crate::run::load_gguf;

/// Writes files into a fresh directory, imports that into a catalog, and loads it from there.
pub fn load_directory(files: &[(&str, &[u8])]) -> Result<Model, ModelError> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}", std::process::id()));
    let source = dir.join("source");
    fs::create_dir_all(&source).unwrap();
    for (name, bytes) in files {
        fs::write(source.join(name), bytes).unwrap();
    }
    let result = (|| {
        let catalog = Catalog::open(&dir.join("catalog"))?;
        catalog.import(&source, "m", &mut |_| {})?;
        load(&catalog.load("m", &mut |_| {})?, LoadOptions::default())
    })();
    fs::remove_dir_all(&dir).unwrap();
    result
}

fn checkpoint() -> Checkpoint {
    Checkpoint::new(tiny_config(64, 128), 0).unwrap()
}

pub const HF: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 128, "rms_norm_eps": 1e-5}"#;
const PARAMS: &str = r#"{"dim": 64, "n_layers": 2, "head_dim": 16, "hidden_dim": 128, "n_heads": 4, "n_kv_heads": 2,
    "norm_eps": 1e-5, "vocab_size": 64, "max_position_embeddings": 128}"#;

fn hugging_face(config: &str) -> Result<Model, ModelError> {
    let bytes = checkpoint().safetensors(Naming::HuggingFace, Format::F32)?;
    load_directory(&[("config.json", config.as_bytes()), ("model.safetensors", &bytes)])
}

fn check(result: Result<Model, ModelError>, expected: Expect) {
    expected.assert_eq(&result.err().map_or("no error".to_owned(), |error| error.to_string()));
}

#[test]
fn the_three_layouts_hold_the_same_model() {
    let gguf = load_gguf(checkpoint().gguf(|_| Format::F32).unwrap(), None).unwrap();
    let bytes = checkpoint().safetensors(Naming::Mistral, Format::F32).unwrap();
    let mistral = load_directory(&[("params.json", PARAMS.as_bytes()), ("consolidated.safetensors", &bytes)]).unwrap();
    assert_eq!(gguf.config(), mistral.config());
    let hugging_face = hugging_face(HF).unwrap();
    assert_eq!(hugging_face.parameter_count(), mistral.parameter_count());
    let tokens: Vec<u32> = (0..20).collect();
    let logits = |model| crate::run::logits(model, &tokens, KvFormat::F32, 20);
    assert!(logits(&gguf) == logits(&mistral));
    assert!(crate::run::max_abs_diff(&logits(&hugging_face), &logits(&mistral)) < 1e-5);
}

#[test]
fn shards_are_read_together() {
    let whole = checkpoint().safetensors(Naming::HuggingFace, Format::F32).unwrap();
    let index = falaj_artifact::safetensors::SafetensorsIndex::parse(&whole).unwrap();
    let mut map = serde_json::Map::new();
    let mut files = Vec::new();
    for (number, names) in index.tensors.keys().collect::<Vec<_>>().chunks(9).enumerate() {
        let file = format!("model-{number:05}-of-00003.safetensors");
        let mut writer = falaj_artifact::safetensors::SafetensorsWriter::new();
        for name in names {
            map.insert((*name).clone(), file.clone().into());
            let entry = &index.tensors[*name];
            writer = writer.tensor(name, entry.dtype, &entry.shape).unwrap();
        }
        let data = names.iter().map(|name| index.tensors[*name].bytes(&whole).unwrap());
        files.push((file, writer.write(Vec::new(), data).unwrap()));
    }
    let json = serde_json::json!({ "weight_map": map }).to_string();
    let mut all = vec![("config.json", HF.as_bytes()), ("model.safetensors.index.json", json.as_bytes())];
    all.extend(files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    assert_eq!(load_directory(&all).unwrap().parameter_count(), hugging_face(HF).unwrap().parameter_count());
}

/// Old GGUF files hold each expert's matrices as tensors of their own.
#[test]
fn experts_may_be_split() {
    let config = Config { experts: Some(Experts { count: 3, used: 2 }), ..tiny_config(64, 128) };
    let stacked = Checkpoint::new(config, 0).unwrap().gguf(|_| Format::Q8_0).unwrap();
    let gguf = Gguf::parse(&stacked).unwrap();
    let mut writer = GgufWriter::new("llama");
    for (key, value) in &gguf.metadata {
        writer = writer.set(key, value.clone());
    }
    let mut data = Vec::new();
    for (name, entry) in &gguf.tensors {
        let bytes = entry.bytes(&stacked).unwrap();
        let Some(stem) = name.strip_suffix("_exps.weight") else {
            writer = writer.tensor(name, entry.dtype, &entry.shape).unwrap();
            data.push(bytes);
            continue;
        };
        for (expert, part) in bytes.chunks_exact(bytes.len() / 3).enumerate() {
            writer = writer.tensor(&format!("{stem}.{expert}.weight"), entry.dtype, &entry.shape[1..]).unwrap();
            data.push(part);
        }
    }
    let split = load_gguf(writer.write(Vec::new(), data).unwrap(), None).unwrap();
    let stacked = load_gguf(stacked, None).unwrap();
    let logits = |model| crate::run::logits(model, &[1, 2, 3, 4], KvFormat::F32, 4);
    assert!(logits(&split) == logits(&stacked));
}

#[test]
fn configurations_that_cannot_be() {
    let with = |from: &str, to: &str| hugging_face(&HF.replace(from, to));
    check(with("", ""), expect!["no error"]);
    check(
        with("\"llama\"", "\"gpt2\""),
        expect![
            "the architecture `gpt2` is not one of those read here (Llama, Mistral, Mixtral); convert or choose another model"
        ],
    );
    check(
        with("\"num_attention_heads\": 4", "\"num_attention_heads\": 0"),
        expect![
            "`heads` is 0 in the configuration, but it must be at least 1; the file is damaged or of another kind of model"
        ],
    );
    check(
        with("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
        expect![
            "`kv_heads` is 3 in the configuration, but it must divide the number of heads; the file is damaged or of another kind of model"
        ],
    );
    check(
        with("\"num_attention_heads\": 4", "\"num_attention_heads\": 18446744073709551615"),
        expect![
            "`heads` is 18446744073709551615 in the configuration, but no model is that large; the file is damaged or of another kind of model"
        ],
    );
    check(
        with("\"vocab_size\": 64", "\"vocab_size\": 65"),
        expect![
            "tensor `model.embed_tokens.weight` has the shape [64, 64], the configuration asks for [65, 64]; weights and configuration do not belong together"
        ],
    );
    check(
        with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
        expect![
            "there is no tensor `model.layers.2.input_layernorm.weight` among the weights; the model is incomplete, fetch it again"
        ],
    );
    check(
        with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"),
        expect![
            "the weights hold `model.layers.1.input_layernorm.weight`, which this architecture has no place for; leaving it out would change every answer"
        ],
    );
    check(
        with("\"vocab_size\": 64,", ""),
        expect![
            "the configuration lacks `vocab_size`; the model is of another kind or its configuration is incomplete"
        ],
    );
    check(
        with("\"vocab_size\": 64", "\"vocab_size\": \"64\""),
        expect![[
            r#"`config.json` is not the JSON of a model's configuration: invalid type: string "64", expected usize at line 2 column 74; fetch the file again"#
        ]],
    );
    check(
        with("\"vocab_size\": 64", "\"vocab_size\": 64, \"attention_bias\": true"),
        expect!["the model uses biases in its linear layers, which is not supported yet; choose another model"],
    );
    check(
        with("\"vocab_size\": 64", "\"vocab_size\": 64, \"rope_theta\": -1.0"),
        expect![
            "`rope theta` is -1 in the configuration, but it must be a positive number; the file is damaged or of another kind of model"
        ],
    );
    check(
        with("\"vocab_size\": 64", "\"vocab_size\": 64, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}"),
        expect!["the model uses the RoPE scaling `dynamic`, which is not supported yet; choose another model"],
    );
    check(
        hugging_face("{"),
        expect![
            "the model's configuration is not valid JSON: EOF while parsing an object at line 1 column 1; fetch the file again"
        ],
    );
}

#[test]
fn weights_that_do_not_fit() {
    let bytes = checkpoint().gguf(|_| Format::F32).unwrap();
    check(
        load_gguf(bytes[..bytes.len() - 1].to_vec(), None),
        expect![
            "tensor `output.weight` lies at bytes 314368..330752 of a file of 330751; the file is cut or hostile, fetch it again"
        ],
    );
    // One dimension of the configuration, changed where it stands in the file.
    let key = b"llama.attention.head_count_kv";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    let mut changed = bytes.clone();
    changed[at] = 4;
    check(
        load_gguf(changed.clone(), None),
        expect![
            "tensor `blk.0.attn_k.weight` has the shape [32, 64], the configuration asks for [64, 64]; weights and configuration do not belong together"
        ],
    );
    changed[at] = 0;
    check(
        load_gguf(changed, None),
        expect![
            "`kv_heads` is 0 in the configuration, but it must be at least 1; the file is damaged or of another kind of model"
        ],
    );
    assert!(load_gguf(Vec::new(), None).is_err());
}

/// Truncations, flipped bits and numbers chosen to hurt, all over the header: an error, or a model that runs. Never a panic.
#[test]
fn damaged_headers_never_panic() {
    let experts = Some(Experts { count: 2, used: 1 });
    let config = Config { experts, layers: 1, hidden_size: 32, ffn_size: 32, ..tiny_config(16, 32) };
    let bytes = Checkpoint::new(config, 0).unwrap().gguf(|_| Format::Q8_0).unwrap();
    let header = Gguf::parse(&bytes).unwrap().data_offset;
    for end in (0..header).step_by(7) {
        assert!(load_gguf(bytes[..end].to_vec(), None).is_err());
    }
    let mut runs = 0;
    for at in 0..header {
        let flipped = (bytes[at] ^ (1 << (at % 8))).to_le_bytes();
        let numbers = [0, 1, 0x7fff_ffff, u32::MAX, f32::INFINITY.to_bits(), f32::NAN.to_bits()].map(u32::to_le_bytes);
        for new in numbers.iter().map(<[u8; 4]>::as_slice).chain([flipped.as_slice()]) {
            let mut damaged = bytes.clone();
            damaged[at..at + new.len()].copy_from_slice(new);
            if let Ok(model) = load_gguf(damaged, None) {
                runs += u32::from(forward(&model).is_ok());
            }
        }
    }
    assert!(runs > 0, "names of unused keys, for one, do no harm");
}

/// One step in the second page; what comes out may be NaN.
pub fn forward(model: &Model) -> Result<(), ModelError> {
    let mut cache = KvCache::new(model.config(), KvFormat::F16, 2)?;
    let mut ws = Workspace::new(model, Pool::new(1), 2, 1)?;
    let mut batch = Batch::default();
    batch.sequence(&[1, 0]);
    batch.push(1, 15, Want::Nothing);
    batch.push(2, 16, Want::Logits);
    model.forward(&mut ws, &mut cache, &batch)
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_allocated() {
    let absurd = Config { layers: usize::MAX, ..tiny_config(64, 128) };
    assert!(matches!(Checkpoint::new(absurd, 0), Err(ModelError::Invalid { field: "layers", .. })));
    assert_eq!(Slot::all(&tiny_config(64, 128)).len(), 2 * 9 + 3);
}
