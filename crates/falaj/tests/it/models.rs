//! `falaj model import | list | inspect | verify | remove`.

use crate::site::{Site, TINY_CONFIG, tiny_gguf, tiny_safetensors};
use std::fs;

#[test]
fn a_model_comes_is_seen_and_goes() {
    let site = Site::new("models");
    let listed = site.falaj(&["model", "list"]).ok();
    assert!(listed.out.starts_with("falaj-seed"));
    assert!(!site.data().exists(), "looking writes nothing");

    fs::write(site.path("Tiny Model.gguf"), tiny_gguf()).unwrap();
    site.falaj(&["model", "import", "Tiny Model.gguf"]).ok();
    let listed = site.falaj(&["model", "list", "--json"]).ok().json();
    assert_eq!(listed["models"][1]["name"], "Tiny-Model");
    assert_eq!(listed["models"][1]["format"], "gguf");

    let shown = site.falaj(&["model", "inspect", "Tiny-Model", "--json"]).ok().json();
    assert_eq!(shown["shape"]["layers"], 2);
    assert_eq!(shown["shape"]["context_tokens"], 128);
    assert_eq!(shown["dtypes"]["F32"], shown["parameters"]);
    assert_eq!(shown["files"][0]["sha256"].as_str().unwrap().len(), 64);
    let table = site.falaj(&["model", "inspect", "Tiny-Model"]).ok().out;
    assert!(table.contains("2 layers of 64"), "{table}");
    let by_path = site.falaj(&["model", "inspect", "./Tiny Model.gguf", "--json"]).ok().json();
    assert_eq!(by_path["digest"], shown["digest"]);

    site.falaj(&["model", "import", "Tiny Model.gguf"]).fails(1, &["already a model `Tiny-Model`"]);
    site.falaj(&["model", "remove", "Tiny-Model"]).ok();
    site.falaj(&["model", "remove", "Tiny-Model"]).fails(1, &["no model is called", "falaj model list"]);
    assert!(site.path("Tiny Model.gguf").exists(), "the source stays");
}

#[test]
fn a_model_leaves_in_other_forms_and_comes_back() {
    let site = Site::new("models-export");
    let told = site.falaj(&["model", "export", "falaj-seed", "hf", "--json"]).ok().json();
    assert!(told["logits_off"].as_f64().unwrap() < 0.05, "{told}");
    for file in ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"]
    {
        assert!(site.path("hf").join(file).exists(), "{file}");
    }
    site.falaj(&["model", "export", "./hf", "back.gguf", "--format", "q8_0"]).ok();
    let hidden = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    assert!(!fs::read_dir(&site.dir).unwrap().any(|entry| hidden(&entry.unwrap())), "nothing hidden stays");
    let shape = |model| site.falaj(&["model", "inspect", model, "--json"]).ok().json()["shape"].clone();
    assert_eq!(shape("./back.gguf"), shape("falaj-seed"));
    let answer = |model| site.falaj(&["run", model, "Hello", "--max-tokens", "8"]).ok().out;
    assert!(!answer("./back.gguf").is_empty());

    site.falaj(&["model", "export", "falaj-seed", "hf"]).fails(2, &["is there already"]);
    site.falaj(&["model", "export", "falaj-seed", "x", "--format", "q8_0"]).fails(2, &["does not end in `.gguf`"]);
    site.falaj(&["model", "export", "falaj-seed", "x.gguf", "--format", "safetensors"]).fails(2, &["a folder"]);
    site.falaj(&["model", "export", "falaj-seed", "x.gguf", "--adapter", "nowhere"]).fails(1, &["adapter_config.json"]);
    assert!(!site.path("x.gguf").exists());
}

#[test]
fn a_changed_byte_is_found() {
    let site = Site::new("models-tampered");
    fs::write(site.path("tiny.gguf"), tiny_gguf()).unwrap();
    site.falaj(&["model", "import", "tiny.gguf"]).ok();
    site.falaj(&["model", "verify", "tiny"]).ok();

    let path = fs::read_dir(site.data().join("models/tiny")).unwrap().map(|entry| entry.unwrap().path());
    let path = path.into_iter().find(|path| path.extension().is_some_and(|e| e == "gguf")).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();

    site.falaj(&["model", "verify", "tiny"]).fails(1, &["tiny.gguf", "SHA-256", "next:"]);
    let ran = site.falaj(&["model", "verify", "--json"]).fails(1, &[]);
    assert_eq!(ran.json()["models"][0]["ok"], true, "the built-in one is sound");
    assert_eq!(ran.json()["models"][1]["ok"], false);
    site.falaj(&["run", "tiny", "Hi"]).fails(1, &["not what was vouched for"]);
}

#[test]
fn folders_of_safetensors_are_models_and_pickles_are_not() {
    let site = Site::new("models-folder");
    let dir = site.path("hf");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.json"), TINY_CONFIG).unwrap();
    fs::write(dir.join("pytorch_model.bin"), "pickle").unwrap();
    site.falaj(&["model", "import", "hf"]).fails(1, &["pickle"]);
    fs::write(dir.join("model.safetensors"), tiny_safetensors()).unwrap();
    site.falaj(&["model", "import", "hf", "--name", "lab/tiny"]).ok();
    let shown = site.falaj(&["model", "inspect", "lab/tiny", "--json"]).ok().json();
    assert_eq!(shown["architecture"], "LlamaForCausalLM");
    assert_eq!(shown["shape"]["heads"], 4);
    let names: Vec<_> = shown["files"].as_array().unwrap().iter().map(|file| file["path"].clone()).collect();
    assert_eq!(names, ["config.json", "model.safetensors"]);
}

#[test]
fn names_and_places_that_cannot_be_are_refused() {
    let site = Site::new("models-wrong");
    fs::write(site.path("tiny.gguf"), tiny_gguf()).unwrap();
    site.falaj(&["model", "import", "tiny.gguf", "--name", "../x"]).fails(1, &["no model name"]);
    site.falaj(&["model", "import", "tiny.gguf", "--name", "falaj-seed"]).fails(2, &["built in", "--name"]);
    site.falaj(&["model", "remove", "falaj-seed"]).fails(2, &["built in"]);
    site.falaj(&["model", "import", "nowhere.gguf"]).fails(1, &["nowhere.gguf"]);
    site.falaj(&["model", "inspect", "nowhere"]).fails(1, &["no model is called"]);
    site.falaj(&["model", "verify", "nowhere"]).fails(1, &["no model is called"]);
    fs::write(site.path("lying.gguf"), &tiny_gguf()[..2000]).unwrap();
    site.falaj(&["model", "import", "lying.gguf"]).fails(1, &["fetch it again"]);
    assert_eq!(fs::read_dir(site.data().join("models")).unwrap().count(), 0, "nothing is left behind");
}

/// The same answer from a file that needs no packing, from the catalog and by path.
#[test]
fn an_optimized_model_answers_the_same() {
    let site = Site::new("models-optimize");
    let ask = |model: &str| {
        site.falaj(&["run", model, "مرحبًا! من أنت؟", "--max-tokens", "12", "--json"]).ok().json()["text"].clone()
    };
    let added = site.falaj(&["model", "optimize", "falaj-seed", "--json"]).ok().json();
    assert_eq!(added["name"], "falaj-seed-panels");
    assert!(!site.data().join("pulls/falaj-seed-panels.optimize").exists(), "nothing is left behind");
    let written = site.falaj(&["model", "optimize", "falaj-seed", "--out", "fast.gguf"]).ok();
    assert!(written.out.contains("fast.gguf"), "{}", written.out);
    let expected = ask("falaj-seed");
    assert_eq!([ask("falaj-seed-panels"), ask("./fast.gguf")], [expected.clone(), expected]);

    site.falaj(&["model", "optimize", "falaj-seed"]).fails(1, &["already a model `falaj-seed-panels`"]);
    site.falaj(&["model", "optimize", "falaj-seed-panels", "--name", "x"]).fails(1, &["panels"]);
    assert!(!site.data().join("pulls/x.optimize").exists());
    site.falaj(&["model", "optimize", "falaj-seed", "--out", "fast.bin"]).fails(2, &["`fast.bin`", ".gguf"]);
    site.falaj(&["model", "optimize", "nobody"]).fails(1, &["no model is called"]);
}
