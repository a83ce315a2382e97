//! Finding a model in a directory.

use std::path::Path;

use falaj_artifact::{ArtifactError, Layout};

use crate::samples::directory;

fn detect(files: &[&str]) -> Result<Layout, ArtifactError> {
    let dir = directory("layout");
    for file in files {
        let contents = if file.ends_with("index.json") {
            r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#
        } else {
            ""
        };
        std::fs::write(dir.join(file), contents).unwrap();
    }
    Layout::detect(&dir)
}

#[test]
fn each_layout_is_found() {
    let found = |files: &[&str]| {
        let layout = detect(files).unwrap();
        let weights = layout.weights().iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        (layout.name(), weights.collect::<Vec<_>>().join(" "))
    };
    let one = |name, weights: &str| (name, weights.to_owned());
    assert_eq!(found(&["m.gguf", "README.md", "mmproj-m.gguf"]), one("gguf", "m.gguf"));
    assert_eq!(found(&["config.json", "model.safetensors"]), one("hugging-face", "model.safetensors"));
    assert_eq!(
        found(&["config.json", "model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"]),
        one("hugging-face", "model-1.safetensors model-2.safetensors")
    );
    assert_eq!(found(&["params.json", "consolidated.safetensors"]), one("mistral", "consolidated.safetensors"));
    assert_eq!(
        found(&["params.json", "consolidated-2.safetensors", "consolidated-1.safetensors"]),
        one("mistral", "consolidated-1.safetensors consolidated-2.safetensors")
    );
    assert_eq!(
        found(&["params.json", "consolidated.safetensors", "config.json", "model.safetensors"]),
        one("hugging-face", "model.safetensors")
    );
    assert_eq!(
        found(&["adapter_config.json", "adapter_model.safetensors", "training.json"]),
        one("adapter", "adapter_model.safetensors")
    );
    // What is whole wins.
    assert_eq!(
        found(&["adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"]),
        one("hugging-face", "model.safetensors")
    );
    assert_eq!(
        found(&["params.json", "consolidated.safetensors", "config.json"]),
        one("mistral", "consolidated.safetensors")
    );
}

#[test]
fn what_is_not_there_is_named() {
    let lacks = |files: &[&str]| match detect(files) {
        Err(ArtifactError::MissingFile { file, .. }) => file,
        other => panic!("{other:?}"),
    };
    assert_eq!(lacks(&["config.json"]), "model.safetensors");
    assert_eq!(lacks(&["adapter_config.json"]), "adapter_model.safetensors");
    let pickle = detect(&["adapter_config.json", "adapter_model.bin"]);
    assert!(matches!(pickle, Err(ArtifactError::Pickle { .. })));
    assert_eq!(lacks(&["model.safetensors"]), "config.json");
    assert_eq!(lacks(&["params.json"]), "consolidated.safetensors");
    assert_eq!(lacks(&["config.json", "model-1.safetensors"]), "model.safetensors.index.json");
    assert_eq!(lacks(&["config.json", "model.safetensors.index.json", "model-1.safetensors"]), "model-2.safetensors");
    assert!(matches!(detect(&["README.md"]), Err(ArtifactError::NoModel { .. })));
    assert!(
        matches!(detect(&["a.gguf", "b.gguf"]), Err(ArtifactError::SeveralModels { files, .. }) if files.len() == 2)
    );
    let split = detect(&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
    assert!(matches!(split, Err(ArtifactError::SplitGguf { .. })));
    let pickle = detect(&["pytorch_model.bin"]);
    assert!(matches!(pickle, Err(ArtifactError::Pickle { file }) if file == "pytorch_model.bin"));
    assert!(matches!(Layout::detect(Path::new("/no/such/place")), Err(ArtifactError::Io { .. })));
}
