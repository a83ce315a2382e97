//! Exports: loaded again, they give the trained model's logits; a wrong one is not published.

use std::fs;
use std::path::PathBuf;

use falaj_artifact::gguf::Gguf;
use falaj_artifact::{ModelFiles, Verified};
use falaj_kernels::{Format, RopeLayout};
use falaj_model::export::hugging_face_json;
use falaj_model::synthetic::Checkpoint;
use falaj_model::{Config, Naming, Rope};
use falaj_text::ModelText;
use falaj_train::{Export, ExportFormat, Lora, Record, Settings, Start, Target, TrainError, Trainer, convert};

use crate::small::{arena, batch, config, settings, trainer};

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("falaj-export-{name}-{}", std::process::id()))
}

/// Rows of whole blocks.
fn even(layout: RopeLayout) -> Config {
    let config = config();
    Config {
        hidden_size: 256,
        ffn_size: 512,
        heads: 4,
        head_dim: 64,
        rope: Rope { layout, ..config.rope.clone() },
        ..config
    }
}

fn export(record: &Record) -> Export<'_> {
    Export { base: None, name: "test", base_name: "base", record: Some(record), probe: &[] }
}

#[test]
fn every_form_gives_the_trained_logits() {
    let record = Record { seed: 7, ..Record::default() };
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        let config = even(layout);
        let mut trainer = trainer(&config, settings(24));
        trainer.step(&[batch(&config, &[24], 24, 1)]).unwrap();
        for format in [
            ExportFormat::Safetensors,
            ExportFormat::GgufF16,
            ExportFormat::GgufQ8_0,
            ExportFormat::GgufQ4_0,
            ExportFormat::GgufQ4KM,
        ] {
            let target = folder(&format!("{layout:?}-{format:?}"));
            let distance = export(&record).write(&mut trainer, format, &target).unwrap();
            assert!(distance < 0.4, "{format:?}: {distance}");
            let written: Record = serde_json::from_slice(&fs::read(target.join(Record::FILE)).unwrap()).unwrap();
            assert_eq!(written, record);
            fs::remove_dir_all(target).unwrap();
        }
        assert!(export(&record).write(&mut trainer, ExportFormat::Peft, &folder("none")).is_err());
        assert!(!folder("none").exists());
    }
}

#[test]
fn adapters_leave_alone_or_merged() {
    let record = Record::default();
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        let config = even(layout);
        let model = crate::serving::served(&arena(&config), falaj_kernels::Format::F32);
        let (config, base) = (model.config().clone(), model.params().clone());
        let lora =
            Lora { rank: 8, alpha: 16.0, dropout: 0.0, targets: vec![Target::Query, Target::Value, Target::Down] };
        let optimization = falaj_train::Optimization { learning_rate: 1e-2, ..Default::default() };
        let settings = Settings { optimization, ..settings(24) };
        let mut trainer = Trainer::new(Start::Lora { config: config.clone(), base, lora }, settings).unwrap();
        for _ in 0..5 {
            trainer.step(&[batch(&config, &[24], 24, 1)]).unwrap();
        }
        let target = folder(&format!("adapter-{layout:?}"));
        assert_eq!(export(&record).write(&mut trainer, ExportFormat::Peft, &target).unwrap(), 0.0);
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(target.join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!(json["target_modules"], serde_json::json!(["q_proj", "v_proj", "down_proj"]));
        export(&record).write(&mut trainer, ExportFormat::Safetensors, &target).unwrap();
        fs::remove_dir_all(target).unwrap();
    }
}

/// What vLLM's `PEFTHelper` and its loader of LoRA weights read: fields that must be there, features that must be off, and names that
/// end in `lora_A.weight` or `lora_B.weight` behind `base_model.model.` and the module's own.
#[test]
fn adapters_are_as_vllm_expects_them() {
    let config = even(RopeLayout::Halves);
    let model = crate::serving::served(&arena(&config), falaj_kernels::Format::F32);
    let (config, base) = (model.config().clone(), model.params().clone());
    let lora = Lora { rank: 4, alpha: 8.0, dropout: 0.05, targets: Target::ALL.to_vec() };
    let mut trainer = Trainer::new(Start::Lora { config: config.clone(), base, lora }, settings(24)).unwrap();
    let target = folder("vllm");
    export(&Record::default()).write(&mut trainer, ExportFormat::Peft, &target).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(target.join("adapter_config.json")).unwrap()).unwrap();
    assert!(json["r"].is_u64() && json["lora_alpha"].is_u64() && json["target_modules"].is_array(), "{json}");
    assert_eq!(
        (&json["peft_type"], &json["bias"], &json["lora_dropout"]),
        (&"LORA".into(), &"none".into(), &0.05.into())
    );
    assert_eq!(
        (&json["use_dora"], &json["use_rslora"], &json["modules_to_save"]),
        (&false.into(), &false.into(), &serde_json::Value::Null)
    );
    let file = fs::read(target.join("adapter_model.safetensors")).unwrap();
    let index = falaj_artifact::safetensors::SafetensorsIndex::parse(&file).unwrap();
    let mut expected = Vec::new();
    for layer in 0..config.layers {
        for (part, modules) in [
            ("self_attn", ["q_proj", "k_proj", "v_proj", "o_proj"].as_slice()),
            ("mlp", ["gate_proj", "up_proj", "down_proj"].as_slice()),
        ] {
            for module in modules {
                for which in ["A", "B"] {
                    let place = format!("model.layers.{layer}.{part}.{module}");
                    expected.push(format!("base_model.model.{place}.lora_{which}.weight"));
                }
            }
        }
    }
    expected.sort();
    let mut names: Vec<&str> = index.tensors.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, expected);
    let a = &index.tensors["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"].shape;
    assert_eq!(*a, [4, config.ffn_size]);
    fs::remove_dir_all(target).unwrap();
}

/// `tests/golden/peft/` was written by PyPI's peft, `adapter.json` says what it computes. Merged here, exported and served, the
/// logits are the same within what f16 weights and the trainer's bf16 allow.
#[test]
fn an_adapter_made_by_peft_is_merged() {
    #[derive(serde::Deserialize)]
    struct Golden {
        tokens: Vec<u32>,
        moved: f64,
        logits: Vec<f64>,
    }
    let golden: Golden = serde_json::from_str(include_str!("../golden/adapter.json")).unwrap();
    let config = Config { tied_head: true, ..falaj_model::synthetic::tiny_config(96, 64) };
    let checkpoint = Checkpoint::new(config.clone(), 0).unwrap();
    let dir = folder("peft-base");
    fs::create_dir_all(dir.join("hf")).unwrap();
    let weights = checkpoint.safetensors(Naming::HuggingFace, Format::F32).unwrap();
    fs::write(dir.join("hf/model.safetensors"), weights).unwrap();
    fs::write(dir.join("hf/config.json"), hugging_face_json(&config, "float32").unwrap()).unwrap();
    fs::write(dir.join("hf/tokenizer.json"), tokenizer()).unwrap();
    fs::write(dir.join("model.gguf"), checkpoint.gguf(|_| Format::F32).unwrap()).unwrap();
    let adapter = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft");
    assert!(golden.moved > 0.5);
    for base in ["hf", "model.gguf"] {
        let (base, target) = (found(&dir.join(base)), dir.join("merged"));
        // A GGUF without a tokenizer keeps its form, since nobody could write one.
        let format = if base.names().any(|name| name == "model.gguf") {
            ExportFormat::GgufF16
        } else {
            ExportFormat::Safetensors
        };
        convert(&base, Some(&adapter), "merged", format, &target, 2).unwrap();
        let (v, last, half) = (96, golden.tokens.len() - 1, golden.tokens.len() / 2);
        let logits = logits_of(&found(&target), &golden.tokens);
        let ours = [&logits[last * v..][..v], &logits[half * v..][..v]].concat();
        let norm = golden.logits.iter().map(|logit| logit * logit).sum::<f64>().sqrt();
        let off = ours.iter().zip(&golden.logits).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
        assert!(off < 0.02 * norm, "{format:?}: {}", off / norm);
    }
    let wrong = Config { hidden_size: 32, ffn_size: 64, ..config };
    let weights = Checkpoint::new(wrong.clone(), 0).unwrap().gguf(|_| Format::F32).unwrap();
    fs::write(dir.join("model.gguf"), weights).unwrap();
    let error = convert(&found(&dir.join("model.gguf")), Some(&adapter), "x", ExportFormat::GgufF16, &dir.join("x"), 2);
    assert!(matches!(error, Err(TrainError::NoSuchModule { .. })), "{error:?}");
    assert!(!dir.join("x").exists());
    fs::remove_dir_all(dir).unwrap();
}

fn found(path: &std::path::Path) -> Verified<ModelFiles> {
    let file = path.join("model.gguf");
    let path = if file.exists() { &file } else { path };
    Verified::<ModelFiles>::as_found(path, "found", &mut |_| ()).unwrap().0
}

fn logits_of(files: &Verified<ModelFiles>, tokens: &[u32]) -> Vec<f32> {
    let model = falaj_model::load(files, falaj_model::LoadOptions { threads: 2, ..Default::default() }).unwrap();
    crate::serving::logits(&model, tokens)
}

/// A byte-level `tokenizer.json` of 280 tokens.
fn tokenizer() -> Vec<u8> {
    let texts = ["water of the canal", "l'eau du canal", "ماء الفلج"].repeat(40);
    falaj_text::learn_vocabulary(texts.into_iter(), 280, &["<unk>", "<s>", "</s>"]).unwrap()
}

/// A base as Hugging Face has it becomes a GGUF, and that one a folder again: the same logits and the same tokens on all sides.
#[test]
fn whole_models_change_their_form() {
    const TEXT: &str = "The water of the canal; l'eau du canal, à l'été ! ماء الفلج، 123.";
    let config = Config { vocab_size: 304, ..even(RopeLayout::Halves) };
    let checkpoint = Checkpoint::new(config.clone(), 0).unwrap();
    let dir = folder("forms");
    fs::create_dir_all(dir.join("hf")).unwrap();
    let weights = checkpoint.safetensors(Naming::HuggingFace, Format::BF16).unwrap();
    fs::write(dir.join("hf/model.safetensors"), weights).unwrap();
    fs::write(dir.join("hf/config.json"), hugging_face_json(&config, "bfloat16").unwrap()).unwrap();
    fs::write(dir.join("hf/tokenizer.json"), tokenizer()).unwrap();
    fs::write(dir.join("hf/chat_template.jinja"), "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}")
        .unwrap();
    let forms = [("hf", "gguf", ExportFormat::GgufF16), ("gguf", "back", ExportFormat::Safetensors)];
    for (from, to, format) in forms {
        convert(&found(&dir.join(from)), None, "model", format, &dir.join(to), 2).unwrap();
    }
    let tokens: Vec<u32> = (0..20).map(|i| i * 13 % 280).collect();
    let original = logits_of(&found(&dir.join("hf")), &tokens);
    let text = |name: &str| match name {
        "gguf" => ModelText::from_gguf(&Gguf::open(&dir.join("gguf/model.gguf")).unwrap()).unwrap(),
        name => {
            let names = found(&dir.join(name)).names().map(str::to_owned).collect();
            ModelText::from_dir(&dir.join(name), &names).unwrap()
        }
    };
    let spread = original.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    for form in ["gguf", "back"] {
        let logits = logits_of(&found(&dir.join(form)), &tokens);
        let off = logits.iter().zip(&original).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(off < 0.01 * spread, "{form}: {off} of {spread}");
        let encode = |text: &ModelText| text.tokenizer.encode(TEXT, falaj_text::Special::Plain);
        assert_eq!(encode(&text(form)), encode(&text("hf")), "{form}");
        assert!(text(form).chat.is_some(), "{form}");
    }
    // A tokenizer that GGUF has no name for is told before anything is written.
    let mut file: serde_json::Value = serde_json::from_slice(&tokenizer()).unwrap();
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+".into();
    fs::write(dir.join("hf/tokenizer.json"), file.to_string()).unwrap();
    let error = convert(&found(&dir.join("hf")), None, "model", ExportFormat::GgufF16, &dir.join("no"), 2).unwrap_err();
    assert!(error.to_string().contains("no name for the pattern"), "{error}");
    assert!(!dir.join("no").exists());
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_cannot_be_written_leaves_what_was_there() {
    let record = Record::default();
    let target = folder("kept");
    fs::create_dir_all(&target).unwrap();
    fs::write(target.join("old"), "good").unwrap();
    let config = even(RopeLayout::Halves);
    let mut trainer = trainer(&config, settings(24));
    trainer.replace(3, Some(f32::NAN));
    let error = export(&record).write(&mut trainer, ExportFormat::GgufF16, &target).unwrap_err();
    assert!(matches!(error, TrainError::RoundTrip { .. }), "{error}");
    assert_eq!(fs::read_to_string(target.join("old")).unwrap(), "good");
    fs::remove_dir_all(target).unwrap();
}
