//! What each key of a recipe means, what it is when it is not written, and which belong together.

use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::section::{Reader, RecipeError, RecipeProblem, Section, short};
use super::{
    Adapter, Batch, Checkpoint, Data, DataFile, Distill, Dpo, EarlyStop, Evaluate, Export, Method, Optimizer,
    OptimizerKind, Recipe, Schedule, ScheduleKind, Sizes, TooLong,
};
use crate::{ExportFormat, Target};

pub fn read(text: &str) -> Result<Recipe, RecipeError> {
    let mut reader = Reader::new(text);
    if text.len() > MOST_BYTES {
        let what = format!("the recipe has {} bytes, more than {MOST_BYTES}", text.len());
        return Err(RecipeError { problems: vec![RecipeProblem { line: 1, what }] });
    }
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let line = error.span().map_or(1, |span| reader.line_of(span.start));
            let what = error.message().trim_end_matches('.').replace('\n', ", ");
            return Err(RecipeError { problems: vec![RecipeProblem { line, what }] });
        }
    };
    let mut root = Section::root(table.get_ref());
    let recipe = recipe(&mut reader, &mut root);
    root.close(&mut reader);
    match (recipe, reader.finish()) {
        (Some(recipe), problems) if problems.is_empty() => Ok(recipe),
        (_, problems) => Err(RecipeError { problems }),
    }
}

fn recipe(r: &mut Reader, root: &mut Section) -> Option<Recipe> {
    let name = name(r, root);
    let method_line = root.line_of(r, "method");
    let method = root.word(r, "method", &METHODS);
    if method.is_none() && method_line == 1 && root.value(r, "method").is_none() {
        let known = METHODS.map(|(word, _)| format!("`{word}`")).join(", ");
        r.problem(1, format!("`method` is missing: one of {known}"));
    }
    // What is wrong elsewhere is told too, as for the most usual method.
    let known_method = method;
    let method = method.unwrap_or(Method::Lora);
    let base = base(r, root, method);
    let seed = root.count(r, "seed", 0..=i64::MAX as u64, 0);
    let threads = root.size(r, "threads", 0..=1024, 0);
    let data = data(r, root);
    let model =
        section_of(r, root, "model", method == Method::Pretrain, method, "`pretrain`").map(|section| sizes(r, section));
    if method == Method::Pretrain && model.is_none() {
        r.problem(1, "`model` is missing: the sizes of the new model".to_owned());
    }
    let may_adapt = !matches!(method, Method::Full | Method::Pretrain);
    let lora = section_of(r, root, "lora", may_adapt, method, "`lora`, `qlora`, `dpo` or `distill`");
    let lora = match lora {
        Some(section) => Some(adapter(r, section)),
        None if matches!(method, Method::Lora | Method::Qlora | Method::Dpo) => {
            Some(adapter(r, Section::absent("lora")))
        }
        None => None,
    };
    let dpo = section_of(r, root, "dpo", method == Method::Dpo, method, "`dpo`");
    let dpo = (method == Method::Dpo).then(|| dpo_settings(r, dpo.unwrap_or_else(|| Section::absent("dpo"))));
    let distill = section_of(r, root, "distill", method == Method::Distill, method, "`distill`");
    let distill =
        (method == Method::Distill).then(|| distillation(r, distill.unwrap_or_else(|| Section::absent("distill"))));
    let adapts = lora.is_some();
    let recipe = Recipe {
        name,
        method,
        base,
        seed,
        threads,
        data: data.unwrap_or_else(|| Data {
            bad_lines: 0.0,
            hold_out: 0.0,
            pack: true,
            too_long: TooLong::Drop,
            train: Vec::new(),
            validation: Vec::new(),
        }),
        model,
        lora,
        dpo,
        distill,
        batch: batch(r, root, method),
        optimizer: optimizer(r, root, method, adapts),
        schedule: schedule(r, root),
        evaluate: evaluate(r, root),
        checkpoint: checkpoint(r, root),
        early_stop: early_stop(r, root),
        export: export(r, root, adapts),
    };
    check_data(r, root, &recipe.data);
    known_method.map(|_| recipe)
}

fn name(r: &mut Reader, root: &mut Section) -> String {
    let line = root.line_of(r, "name");
    if root.value(r, "name").is_none() {
        r.problem(1, "`name` is missing: what the new model is called".to_owned());
    }
    let name = root.text(r, "name").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = (1..=64).contains(&name.len())
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !name.is_empty() && !good {
        r.problem(line, format!("`name` is `{}`; write letters, digits, `.`, `-`, `_`, at most 64", short(&name)));
    }
    name
}

fn base(r: &mut Reader, root: &mut Section, method: Method) -> Option<String> {
    let line = root.line_of(r, "base");
    let base = root.text(r, "base").filter(|base| !base.is_empty());
    match (&base, method) {
        (Some(_), Method::Pretrain) => {
            let next = "take it out, or choose `full` to go on with a model";
            r.problem(line, format!("`base` does not belong to method `pretrain`; {next}"));
        }
        (None, method) if method != Method::Pretrain => {
            r.problem(line, "`base` is missing: the model to start from, such as `base = \"falaj-seed\"`".to_owned());
        }
        _ => {}
    }
    base
}

/// A section that belongs to some methods only.
fn section_of<'a, 't>(
    r: &mut Reader,
    root: &mut Section<'a, 't>,
    key: &'static str,
    belongs: bool,
    method: Method,
    others: &str,
) -> Option<Section<'a, 't>> {
    let section = root.inner(r, key)?;
    if belongs {
        return Some(section);
    }
    let method = METHODS.iter().find(|(_, known)| *known == method).map_or("", |(word, _)| word);
    r.problem(section.line(), format!("`{key}` does not belong to method `{method}`; take it out, or choose {others}"));
    None
}

fn data(r: &mut Reader, root: &mut Section) -> Option<Data> {
    let Some(mut s) = root.inner(r, "data") else {
        r.problem(1, "`data.train` is missing: the file to learn from".to_owned());
        return None;
    };
    let train = files(r, &mut s, "train");
    if train.as_ref().is_none_or(Vec::is_empty) {
        let line = s.line_of(r, "train");
        match train {
            Some(_) => r.problem(line, "`data.train` names no file".to_owned()),
            None if s.value(r, "train").is_none() => {
                r.problem(line, "`data.train` is missing: the file to learn from".to_owned());
            }
            None => {}
        }
    }
    let validation = files(r, &mut s, "validation").unwrap_or_default();
    let data = Data {
        hold_out: s.number(r, "hold_out", 0.0..=0.9, if validation.is_empty() { 0.05 } else { 0.0 }),
        bad_lines: s.number(r, "bad_lines", 0.0..=1.0, 0.0),
        too_long: s.word(r, "too_long", &TOO_LONG).unwrap_or(TooLong::Drop),
        pack: s.flag(r, "pack", true),
        train: train.unwrap_or_default(),
        validation,
    };
    s.close(r);
    Some(data)
}

/// One path, a list of paths, or a list of tables.
fn files(r: &mut Reader, s: &mut Section, key: &'static str) -> Option<Vec<DataFile>> {
    let (line, value) = s.value(r, key)?;
    let plain = |path: &str| DataFile { path: PathBuf::from(path), weight: None, sha256: None };
    if let Some(path) = value.as_str() {
        return Some(vec![plain(path)]);
    }
    let Some(items) = value.as_array() else {
        s.wrong_type(r, key, line, value, "write a path, or a list of paths");
        return None;
    };
    let mut files = Vec::new();
    for item in items {
        match item.get_ref() {
            DeValue::String(path) => files.push(plain(path)),
            DeValue::Table(table) => {
                let line = r.line_of(item.span().start).max(line);
                files.extend(file(r, Section::from_table(format!("{}.", s.name(key)), line, table)));
            }
            other => s.wrong_type(r, key, line, other, "write a path, or { path = \"…\", weight = 1.0 }"),
        }
    }
    Some(files)
}

fn file(r: &mut Reader, mut s: Section) -> Option<DataFile> {
    let line = s.line();
    let path = s.text(r, "path");
    if path.is_none() {
        r.problem(line, format!("`{}` is missing", s.name("path")));
    }
    let weight = s.number(r, "weight", 0.0..=1e9, f64::NAN);
    let sha256 = s.text(r, "sha256");
    if let Some(written) = sha256.as_ref().filter(|hex| hex.parse::<falaj_artifact::Digest>().is_err()) {
        let line = s.line_of(r, "sha256");
        r.problem(
            line,
            format!("`{}` is `{}`; write 64 lower-case hexadecimal digits", s.name("sha256"), short(written)),
        );
    }
    s.close(r);
    Some(DataFile { path: PathBuf::from(path?), weight: (!weight.is_nan()).then_some(weight), sha256 })
}

fn check_data(r: &mut Reader, root: &mut Section, data: &Data) {
    // Asked for above; this is only for its lines.
    let mut quiet = Reader::new("");
    let lines = root.inner(&mut quiet, "data").map(|s| (s.line_of(r, "train"), s.line_of(r, "validation")));
    let Some((train, validation)) = lines else { return };
    let weighted = data.train.iter().filter(|file| file.weight.is_some()).count();
    if weighted > 0 && weighted < data.train.len() {
        r.problem(train, "`data.train` gives a weight to some files only; give one to each or to none".to_owned());
    } else if weighted > 0 && data.train.iter().all(|file| file.weight == Some(0.0)) {
        r.problem(train, "`data.train` gives every file the weight 0".to_owned());
    }
    for (at, file) in data.train.iter().enumerate() {
        if data.train.iter().take(at).any(|other| other.path == file.path) {
            r.problem(train, format!("`data.train` names `{}` twice; give it a weight instead", file.path.display()));
        }
    }
    if let Some(twin) = data.validation.iter().find(|file| data.train.iter().any(|other| other.path == file.path)) {
        r.problem(validation, format!("`data.validation` names `{}`, which is also trained on", twin.path.display()));
    }
}

fn sizes(r: &mut Reader, mut s: Section) -> Sizes {
    for key in ["tokenizer", "layers", "hidden", "heads", "ffn"] {
        if s.value(r, key).is_none() {
            r.problem(s.line(), format!("`model.{key}` is missing"));
        }
    }
    let hidden = s.size(r, "hidden", 16..=65_536, 16);
    let heads = s.size(r, "heads", 1..=1024, 1);
    let kv_heads = s.size(r, "kv_heads", 1..=1024, heads as u64);
    let sizes = Sizes {
        tokenizer: s.text(r, "tokenizer").unwrap_or_default(),
        layers: s.size(r, "layers", 1..=1024, 1),
        head_dim: s.size(r, "head_dim", 2..=1024, (hidden / heads).max(2) as u64),
        hidden,
        heads,
        kv_heads,
        ffn: s.size(r, "ffn", 16..=1_048_576, 16),
        context: s.size(r, "context", 2..=1_048_576, 2048),
        rope_theta: s.number(r, "rope_theta", 1.0..=1e9, 10_000.0),
        norm_eps: s.number(r, "norm_eps", 1e-12..=1e-2, 1e-5),
        tied_head: s.flag(r, "tied_head", true),
    };
    if !sizes.heads.is_multiple_of(sizes.kv_heads) {
        let line = s.line_of(r, "kv_heads");
        r.problem(line, format!("`model.kv_heads` is {kv_heads}; write a number that divides the {heads} heads"));
    }
    if !sizes.head_dim.is_multiple_of(2) {
        let line = s.line_of(r, "head_dim");
        r.problem(line, format!("`model.head_dim` is {}; write an even number", sizes.head_dim));
    }
    s.close(r);
    sizes
}

fn adapter(r: &mut Reader, mut s: Section) -> Adapter {
    let rank = s.size(r, "rank", 1..=1024, 16);
    let told: Vec<&str> = TARGETS.iter().map(|(word, _)| *word).take(7).collect();
    let mut targets =
        s.words(r, "targets", &TARGETS, &told).unwrap_or_else(|| TARGETS.iter().take(7).map(|(_, t)| *t).collect());
    in_order(&mut targets, &TARGETS);
    let adapter = Adapter {
        rank,
        alpha: s.number(r, "alpha", 1e-3..=1e6, 2.0 * rank as f64),
        dropout: s.number(r, "dropout", 0.0..=0.9, 0.0),
        targets,
    };
    if adapter.targets.is_empty() {
        r.problem(s.line_of(r, "targets"), "`lora.targets` names no matrix".to_owned());
    }
    s.close(r);
    adapter
}

fn dpo_settings(r: &mut Reader, mut s: Section) -> Dpo {
    let dpo = Dpo {
        beta: s.number(r, "beta", 1e-4..=100.0, 0.1),
        label_smoothing: s.number(r, "label_smoothing", 0.0..=0.49, 0.0),
    };
    s.close(r);
    dpo
}

fn distillation(r: &mut Reader, mut s: Section) -> Distill {
    if s.value(r, "teacher").is_none() {
        r.problem(s.line(), "`distill.teacher` is missing: the larger model".to_owned());
    }
    let distill = Distill {
        teacher: s.text(r, "teacher").unwrap_or_default(),
        temperature: s.number(r, "temperature", 0.05..=100.0, 1.0),
        share: s.number(r, "share", 0.0..=1.0, 0.5),
    };
    s.close(r);
    distill
}

fn batch(r: &mut Reader, root: &mut Section, method: Method) -> Batch {
    let mut s = root.inner(r, "batch").unwrap_or_else(|| Section::absent("batch"));
    let few = matches!(method, Method::Pretrain | Method::Dpo);
    let batch = Batch {
        rows: s.size(r, "rows", 1..=4096, 8),
        length: s.size(r, "length", 2..=1_048_576, 512),
        accumulate: s.size(r, "accumulate", 1..=65_536, 1),
        epochs: s.number(r, "epochs", 1e-6..=1e6, if few { 1.0 } else { 3.0 }),
        steps: s.count(r, "steps", 0..=1_000_000_000, 0),
        recompute: s.flag(r, "recompute", false),
    };
    if !batch.length.is_multiple_of(2) {
        r.problem(s.line_of(r, "length"), format!("`batch.length` is {}; write an even number", batch.length));
    }
    s.close(r);
    batch
}

fn optimizer(r: &mut Reader, root: &mut Section, method: Method, adapts: bool) -> Optimizer {
    let mut s = root.inner(r, "optimizer").unwrap_or_else(|| Section::absent("optimizer"));
    let kind = s.word(r, "kind", &OPTIMIZERS).unwrap_or(OptimizerKind::Adamw);
    let usual = match (method, adapts) {
        (Method::Pretrain, _) => 1e-3,
        (Method::Dpo, true) => 5e-5,
        (Method::Dpo, false) => 5e-6,
        (_, true) => 3e-4,
        (_, false) => 1e-4,
    };
    let rates = 1e-8..=1.0;
    let optimizer = Optimizer {
        kind,
        learning_rate: s.number(r, "learning_rate", rates.clone(), usual),
        beta1: s.number(r, "beta1", 0.0..=0.9999, 0.9),
        beta2: s.number(r, "beta2", 0.0..=0.999_999, if method == Method::Pretrain { 0.95 } else { 0.999 }),
        epsilon: s.number(r, "epsilon", 1e-20..=1e-2, 1e-8),
        weight_decay: s.number(r, "weight_decay", 0.0..=1.0, if adapts || method == Method::Dpo { 0.0 } else { 0.1 }),
        clip: s.number(r, "clip", 0.0..=1e6, 1.0),
        momentum: s.number(r, "momentum", 0.0..=0.9999, 0.95),
        adamw_learning_rate: s.number(r, "adamw_learning_rate", rates, usual),
    };
    s.close(r);
    optimizer
}

fn schedule(r: &mut Reader, root: &mut Section) -> Schedule {
    let mut s = root.inner(r, "schedule").unwrap_or_else(|| Section::absent("schedule"));
    let kind = s.word(r, "kind", &SCHEDULES).unwrap_or(ScheduleKind::Cosine);
    let schedule = Schedule {
        kind,
        warmup: s.number(r, "warmup", 0.0..=1.0, 0.05),
        decay: s.number(r, "decay", 0.0..=1.0, 0.2),
        floor: s.number(r, "floor", 0.0..=1.0, if kind == ScheduleKind::Wsd { 0.0 } else { 0.1 }),
    };
    s.close(r);
    schedule
}

fn evaluate(r: &mut Reader, root: &mut Section) -> Evaluate {
    let mut s = root.inner(r, "evaluate").unwrap_or_else(|| Section::absent("evaluate"));
    let evaluate = Evaluate {
        every: s.count(r, "every", 0..=1_000_000_000, 50),
        rows: s.size(r, "rows", 0..=1_000_000_000, 64),
        samples: s.texts(r, "samples").map(|(_, texts)| texts).unwrap_or_default(),
    };
    s.close(r);
    evaluate
}

fn checkpoint(r: &mut Reader, root: &mut Section) -> Checkpoint {
    let mut s = root.inner(r, "checkpoint").unwrap_or_else(|| Section::absent("checkpoint"));
    let checkpoint = Checkpoint {
        from: s.text(r, "from").map(Into::into),
        every: s.count(r, "every", 1..=1_000_000_000, 100),
        keep: s.size(r, "keep", 1..=1000, 2),
    };
    s.close(r);
    checkpoint
}

fn early_stop(r: &mut Reader, root: &mut Section) -> EarlyStop {
    let mut s = root.inner(r, "early_stop").unwrap_or_else(|| Section::absent("early_stop"));
    let stop = EarlyStop {
        patience: s.count(r, "patience", 0..=1_000_000, 0),
        improvement: s.number(r, "improvement", 0.0..=100.0, 0.0),
    };
    s.close(r);
    stop
}

fn export(r: &mut Reader, root: &mut Section, adapts: bool) -> Export {
    let mut s = root.inner(r, "export").unwrap_or_else(|| Section::absent("export"));
    let usual = if adapts { ExportFormat::Peft } else { ExportFormat::Safetensors };
    let told: Vec<&str> = FORMATS.iter().map(|(word, _)| *word).take(6).collect();
    let mut formats = s.words(r, "formats", &FORMATS, &told).unwrap_or_else(|| vec![usual]);
    in_order(&mut formats, &FORMATS);
    let line = s.line_of(r, "formats");
    if !adapts && formats.contains(&ExportFormat::Peft) {
        r.problem(line, "`export.formats` has `peft`, but the job trains no adapter; write `safetensors`".to_owned());
    }
    s.close(r);
    Export { formats }
}

/// Each once, in the order of the table, so that two ways to write a recipe are one.
fn in_order<T: Copy + PartialEq>(list: &mut Vec<T>, table: &[(&str, T)]) {
    let known: Vec<T> = table.iter().map(|(_, value)| *value).filter(|value| list.contains(value)).collect();
    list.clear();
    for value in known {
        if !list.contains(&value) {
            list.push(value);
        }
    }
}

const METHODS: [(&str, Method); 6] = [
    ("pretrain", Method::Pretrain),
    ("full", Method::Full),
    ("lora", Method::Lora),
    ("qlora", Method::Qlora),
    ("dpo", Method::Dpo),
    ("distill", Method::Distill),
];

const TOO_LONG: [(&str, TooLong); 3] = [("drop", TooLong::Drop), ("cut", TooLong::Cut), ("refuse", TooLong::Refuse)];

/// The first seven are what people are told; PEFT's names are known too.
const TARGETS: [(&str, Target); 14] = [
    ("q", Target::Query),
    ("k", Target::Key),
    ("v", Target::Value),
    ("o", Target::Output),
    ("gate", Target::Gate),
    ("up", Target::Up),
    ("down", Target::Down),
    ("q_proj", Target::Query),
    ("k_proj", Target::Key),
    ("v_proj", Target::Value),
    ("o_proj", Target::Output),
    ("gate_proj", Target::Gate),
    ("up_proj", Target::Up),
    ("down_proj", Target::Down),
];

const OPTIMIZERS: [(&str, OptimizerKind); 2] = [("adamw", OptimizerKind::Adamw), ("muon", OptimizerKind::Muon)];

const SCHEDULES: [(&str, ScheduleKind); 4] = [
    ("constant", ScheduleKind::Constant),
    ("linear", ScheduleKind::Linear),
    ("cosine", ScheduleKind::Cosine),
    ("wsd", ScheduleKind::Wsd),
];

/// The first six are what people are told.
const FORMATS: [(&str, ExportFormat); 10] = [
    ("safetensors", ExportFormat::Safetensors),
    ("peft", ExportFormat::Peft),
    ("f16", ExportFormat::GgufF16),
    ("q8_0", ExportFormat::GgufQ8_0),
    ("q4_0", ExportFormat::GgufQ4_0),
    ("q4_k_m", ExportFormat::GgufQ4KM),
    ("gguf-f16", ExportFormat::GgufF16),
    ("gguf-q8_0", ExportFormat::GgufQ8_0),
    ("gguf-q4_0", ExportFormat::GgufQ4_0),
    ("gguf-q4_k_m", ExportFormat::GgufQ4KM),
];

const MOST_BYTES: usize = 1 << 20;
