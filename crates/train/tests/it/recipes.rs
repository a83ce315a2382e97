//! A job from a recipe of a dozen lines to exports, on a model with a tokenizer of bytes.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use falaj_artifact::gguf::{Array, StringArray, Value};
use falaj_artifact::{Digest, ModelFiles, Verified};
use falaj_kernels::{Format, Ops};
use falaj_model::{Config, export};
use falaj_protocol::jobs::Progress;
use falaj_train::run::Surroundings;
use falaj_train::{ExportFormat, Finished, Job, Recipe, TrainError};

use crate::small::{arena, config};

fn bytes_as_gpt2_writes_them() -> Vec<String> {
    let plain = |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
    let mut next = 256;
    let mut tokens = Vec::new();
    for byte in 0..256 {
        let code = if plain(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        tokens.push(char::from_u32(code).unwrap().to_string());
    }
    tokens.extend(["<s>", "</s>"].map(str::to_owned));
    tokens
}

fn base(seed: f32) -> Verified<ModelFiles> {
    let config = Config { vocab_size: 258, ..config() };
    let arena = arena(&config);
    let strings = |key: &str, values: Vec<String>| {
        let mut all = StringArray::with_capacity(values.len());
        values.iter().for_each(|value| all.push(value));
        (key.to_owned(), Value::Array(Box::new(Array::Strings(all))))
    };
    let mut kinds = vec![1; 256];
    kinds.extend([3, 3]);
    let metadata = vec![
        ("tokenizer.ggml.model".to_owned(), "gpt2".into()),
        ("tokenizer.ggml.pre".to_owned(), "gpt-2".into()),
        strings("tokenizer.ggml.tokens", bytes_as_gpt2_writes_them()),
        strings("tokenizer.ggml.merges", Vec::new()),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(Box::new(Array::I32(kinds)))),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(256)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(257)),
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
    ];
    let source = export::Source {
        config: &config,
        layout: config.rope.layout,
        values: |slot| arena.get(slot).iter().map(|value| value + seed).collect(),
    };
    let bytes = source.write_gguf(&Ops::best(), &metadata, |_| Format::F32, Vec::new()).unwrap();
    let digest = Digest::of(&bytes);
    Verified::<ModelFiles>::embedded(bytes.leak(), digest).unwrap()
}

fn recipe(folder: &std::path::Path) -> Recipe {
    let data: String = (0..40).map(|i| format!("{{\"text\": \"water {i} flows to the garden\"}}\n")).collect();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("data.jsonl"), data).unwrap();
    let text = format!(
        r#"
name = "gardener"
method = "lora"
base = "tiny"
seed = 3

[data]
hold_out = 0.2

[[data.train]]
path = "{}"

[lora]
rank = 4

[batch]
rows = 2
length = 32
accumulate = 2
steps = 12

[optimizer]
learning_rate = 0.02

[export]
formats = ["f16", "peft"]
"#,
        folder.join("data.jsonl").display()
    );
    Recipe::parse(&text).unwrap()
}

#[test]
fn a_recipe_becomes_a_model_and_an_adapter() {
    let folder: PathBuf = std::env::temp_dir().join(format!("falaj-recipe-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let recipe = recipe(&folder);
    let base_files = base(0.0);
    let go = |base: &Verified<ModelFiles>, cancelled: bool| {
        let (mut events, cancelled) = (Vec::new(), AtomicBool::new(cancelled));
        let mut watch = |event: &Progress| events.push(event.clone());
        let surroundings = Surroundings {
            folder: &folder.join("job"),
            watch: &mut watch,
            cancelled: &cancelled,
            clock: &|| 0.0,
            energy: &|| None,
        };
        let finished = Job { recipe: &recipe, base, teacher: None, threads: 2 }.run(surroundings);
        (finished, events)
    };
    let (stopped, _) = go(&base_files, true);
    assert_eq!(stopped.unwrap(), Finished::Stopped { step: 0 });
    let (finished, events) = go(&base_files, false);
    let Finished::Done { exports, summary } = finished.unwrap() else { panic!("it was not cancelled") };
    assert_eq!(summary.steps, 12);
    assert!(summary.valid_loss.is_some() && summary.last_loss < summary.first_loss, "{summary:?}");
    let formats: Vec<ExportFormat> = exports.iter().map(|(format, ..)| *format).collect();
    assert_eq!(formats, [ExportFormat::Peft, ExportFormat::GgufF16]);
    assert!(folder.join("job/out/f16/model.gguf").is_file());
    assert!(folder.join("job/out/peft/adapter_model.safetensors").is_file());
    assert!(matches!(events.first(), Some(Progress::Validated { steps: 12, .. })));
    assert!(
        matches!(events.last(), Some(Progress::Done { model, .. }) if model.ends_with("f16")),
        "{:?}",
        events.last()
    );

    let (changed, _) = go(&base(0.01), false);
    assert!(matches!(changed, Err(TrainError::BaseChanged { .. })));
    fs::remove_dir_all(&folder).unwrap();
}
