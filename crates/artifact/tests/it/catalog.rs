//! The catalog on a real disk: import, load, verify, remove, and what a crash leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use falaj_artifact::{ArtifactError, Base, Catalog, Digest, Import, Manifest, ModelFiles, Verified};

use crate::samples::{directory, gguf, safetensors};

/// A catalog, and a source directory with `model.gguf` and `hf/`.
fn workspace() -> (Catalog, PathBuf, PathBuf) {
    let dir = directory("catalog");
    let (models, source) = (dir.join("models"), dir.join("source"));
    fs::create_dir_all(source.join("hf")).unwrap();
    fs::write(source.join("model.gguf"), gguf()).unwrap();
    fs::write(source.join("hf/model.safetensors"), safetensors()).unwrap();
    fs::write(source.join("hf/config.json"), r#"{"architectures":["MistralForCausalLM"]}"#).unwrap();
    fs::write(source.join("hf/tokenizer.json"), "{}").unwrap();
    fs::write(source.join("hf/secret-notes.txt"), "not part of the model").unwrap();
    (Catalog::open(&models).unwrap(), models, source)
}

fn load(catalog: &Catalog, name: &str) -> Result<Verified<ModelFiles>, ArtifactError> {
    catalog.load(name, &mut |_| ())
}

#[test]
fn a_gguf_is_imported_found_loaded_and_removed() {
    let (catalog, models, source) = workspace();
    let mut last = (0, 0);
    let manifest = catalog.import(&source.join("model.gguf"), "acme/tiny-1.0", &mut |progress| {
        assert_eq!(progress.file, "model.gguf");
        last = (progress.done_bytes, progress.total_bytes);
    });
    let manifest = manifest.unwrap();
    let size = gguf().len() as u64;
    assert_eq!(last, (size, size));
    assert_eq!((manifest.format.as_str(), manifest.architecture.as_str(), manifest.parameters), ("gguf", "llama", 81));
    assert_eq!(manifest.dtypes, BTreeMap::from([("F16".into(), 12), ("F32".into(), 5), ("Q8_0".into(), 64)]));
    assert_eq!(manifest.files[0].sha256, Digest::of(&gguf()));
    assert_eq!(catalog.find("acme/tiny-1.0").unwrap(), manifest);
    assert_eq!(catalog.list().unwrap().models, std::slice::from_ref(&manifest));

    let files = load(&catalog, "acme/tiny-1.0").unwrap();
    assert_eq!(files.digest(), manifest.digest());
    assert_eq!(fs::read(&files.layout().unwrap().weights()[0]).unwrap(), gguf());
    assert_eq!(files.side_file("tokenizer.json"), None);

    catalog.remove("acme/tiny-1.0").unwrap();
    assert!(matches!(catalog.find("acme/tiny-1.0"), Err(ArtifactError::UnknownModel { .. })));
    assert!(matches!(catalog.remove("acme/tiny-1.0"), Err(ArtifactError::UnknownModel { .. })));
    assert_eq!(fs::read_dir(models).unwrap().count(), 0);
    assert_eq!(fs::read(source.join("model.gguf")).unwrap(), gguf(), "the source is not touched");
}

#[test]
fn an_adapter_names_its_base() {
    let (catalog, _, source) = workspace();
    let folder = source.join("adapter");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("adapter_config.json"), r#"{"peft_type":"LORA","r":2,"lora_alpha":4}"#).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), safetensors()).unwrap();
    let take = |from: PathBuf, base: Option<Base>| {
        let import = Import { base, ..Import::new(from, "tuned") };
        catalog.import_with(&import, &mut |_| ())
    };
    let base = Base { name: "acme/tiny".into(), digest: Digest::of(b"its files") };
    assert!(matches!(take(folder.clone(), None), Err(ArtifactError::AdapterWithoutBase { .. })));
    assert!(matches!(take(source.join("hf"), Some(base.clone())), Err(ArtifactError::NotAnAdapter { .. })));
    let manifest = take(folder, Some(base.clone())).unwrap();
    assert_eq!((manifest.format.as_str(), manifest.architecture.as_str()), ("adapter", "LoRA of rank 2"));
    assert_eq!(catalog.find("tuned").unwrap().base, Some(base));
    let files = load(&catalog, "tuned").unwrap();
    assert_eq!(files.layout().unwrap().name(), "adapter");
}

#[test]
fn a_directory_is_imported_with_what_belongs_to_the_model() {
    let (catalog, _, source) = workspace();
    let import = Import {
        source: Some("hf:acme/m@main".into()),
        license: Some("apache-2.0".into()),
        copy: true,
        ..Import::new(source.join("hf"), "m")
    };
    let manifest = catalog.import_with(&import, &mut |_| ()).unwrap();
    let names: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(manifest.architecture, "MistralForCausalLM");
    assert_eq!((manifest.source.as_deref(), manifest.license.as_deref()), (Some("hf:acme/m@main"), Some("apache-2.0")));
    let files = load(&catalog, "m").unwrap();
    assert_eq!(files.layout().unwrap().name(), "hugging-face");
    assert!(files.side_file("tokenizer.json").unwrap().is_file());
    // Files that come later were never checked, so they are not there.
    let dir = catalog.path("m").unwrap();
    fs::write(dir.join("chat_template.jinja"), "{{ evil }}").unwrap();
    fs::write(dir.join("model.safetensors.index.json"), r#"{"weight_map":{"a":"evil.safetensors"}}"#).unwrap();
    let files = load(&catalog, "m").unwrap();
    assert_eq!(files.side_file("chat_template.jinja"), None);
    assert!(files.layout().unwrap().weights()[0].ends_with("model.safetensors"));
}

#[test]
fn a_changed_file_is_refused_and_reported() {
    let (catalog, _, source) = workspace();
    let import = Import { copy: true, ..Import::new(source.join("hf"), "m") };
    catalog.import_with(&import, &mut |_| ()).unwrap();
    load(&catalog, "m").unwrap();
    let dir = catalog.path("m").unwrap();
    let spoil = |file: &str, change: fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(dir.join(file)).unwrap();
        change(&mut bytes);
        fs::write(dir.join(file), bytes).unwrap();
    };
    spoil("model.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 1);
    let refused = load(&catalog, "m").unwrap_err();
    assert!(matches!(&refused, ArtifactError::DigestMismatch { file, .. } if file == "model.safetensors"), "{refused}");
    spoil("config.json", |bytes| bytes.push(b' '));
    fs::remove_file(dir.join("tokenizer.json")).unwrap();
    let report = catalog.verify("m", &mut |_| ()).unwrap();
    assert_eq!(report.files, 3);
    let [length, digest, missing] = report.faults.as_slice() else { panic!("{:?}", report.faults) };
    assert!(matches!(length, ArtifactError::LengthMismatch { file, .. } if file == "config.json"));
    assert!(matches!(digest, ArtifactError::DigestMismatch { file, .. } if file == "model.safetensors"));
    assert!(matches!(missing, ArtifactError::Io { .. }));
}

#[test]
fn what_was_checked_once_is_not_read_again_until_it_changes() {
    let (catalog, _, source) = workspace();
    let import = Import { copy: true, ..Import::new(source.join("hf"), "m") };
    catalog.import_with(&import, &mut |_| ()).unwrap();
    let dir = catalog.path("m").unwrap();
    let read_bytes = || {
        let mut read = 0;
        catalog.load("m", &mut |progress| read = progress.done_bytes).unwrap();
        read
    };
    let total = catalog.find("m").unwrap().size_bytes();
    assert_eq!(read_bytes(), total, "an import leaves nothing remembered about fresh copies");
    // A fresh file's clock must tick before its digest is remembered; hash until it has.
    while read_bytes() > 0 {}
    assert_eq!(read_bytes(), 0);
    fs::write(dir.join("tokenizer.json"), "{}").unwrap();
    assert_eq!(read_bytes(), 2, "the same bytes, but written again");
    // A damaged memory is no memory.
    fs::write(dir.join(".verified.json"), "[").unwrap();
    assert_eq!(read_bytes(), total);
}

#[test]
fn names_are_checked_and_never_meet() {
    let (catalog, models, source) = workspace();
    let long = "a".repeat(97);
    for name in
        ["", ".", "..", "a/", "/a", "a/../b", "a/b/c", ".a", "-a", "a b", "a\\b", "a+b", "a:b", "é", "a\0", "a.", &long]
    {
        let refused = catalog.import(&source.join("model.gguf"), name, &mut |_| ());
        assert!(matches!(refused, Err(ArtifactError::BadModelName { .. })), "{name:?}: {refused:?}");
        assert!(matches!(catalog.find(name), Err(ArtifactError::BadModelName { .. })), "{name:?}");
        assert!(matches!(catalog.remove(name), Err(ArtifactError::BadModelName { .. })), "{name:?}");
    }
    for name in ["a", "a/b", "a--b", "a_b", "a.b-C_1"] {
        catalog.import(&source.join("model.gguf"), name, &mut |_| ()).unwrap();
    }
    let listed: Vec<String> = catalog.list().unwrap().models.into_iter().map(|model| model.name).collect();
    assert_eq!(listed, ["a", "a--b", "a.b-C_1", "a/b", "a_b"]);
    assert_eq!(fs::read_dir(&models).unwrap().count(), 5);
    let taken = catalog.import(&source.join("model.gguf"), "a", &mut |_| ());
    assert!(matches!(taken, Err(ArtifactError::ModelExists { name }) if name == "a"));
}

#[test]
fn a_refused_import_leaves_nothing() {
    let (catalog, models, source) = workspace();
    fs::write(source.join("cut.gguf"), &gguf()[..300]).unwrap();
    let cut = catalog.import(&source.join("cut.gguf"), "m", &mut |_| ());
    assert!(matches!(cut, Err(ArtifactError::Truncated { .. })), "{cut:?}");
    let other = Digest::of(b"something else");
    let path = source.join("model.gguf");
    let import = Import { expected: BTreeMap::from([("model.gguf".into(), other)]), ..Import::new(path, "m") };
    let wrong = catalog.import_with(&import, &mut |_| ());
    assert!(matches!(wrong, Err(ArtifactError::DigestMismatch { expected, .. }) if expected == other));
    fs::write(source.join("hf/config.json"), "[[[").unwrap();
    assert!(matches!(catalog.import(&source.join("hf"), "m", &mut |_| ()), Err(ArtifactError::Json { .. })));
    assert_eq!(fs::read_dir(models).unwrap().count(), 0);
}

#[test]
fn what_a_crash_left_is_swept_and_an_import_under_way_is_not() {
    let (_, models, source) = workspace();
    let stale = |name: &str| {
        fs::create_dir(models.join(name)).unwrap();
        fs::write(models.join(name).join("half.gguf"), "half").unwrap();
    };
    stale(".import-1-2-3");
    fs::write(models.join(".import-1-2-3.lock"), "").unwrap();
    stale(".import-4-5-6");
    stale(".remove-7-8-9");
    stale("somebodys.directory");
    fs::write(models.join("notes.txt"), "kept").unwrap();
    let catalog = Catalog::open(&models).unwrap();
    let names = |dir: &Path| -> BTreeSet<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names(&models), BTreeSet::from(["notes.txt".into(), "somebodys.directory".into()]));
    let listing = catalog.list().unwrap();
    assert!(listing.models.is_empty());
    assert_eq!(listing.broken.len(), 2, "{:?}", listing.broken);

    // Another process starts in the middle of an import: its sweep must not touch the stage.
    let mut swept = false;
    catalog
        .import(&source.join("model.gguf"), "m", &mut |_| {
            Catalog::open(&models).unwrap();
            swept = true;
        })
        .unwrap();
    assert!(swept);
    load(&catalog, "m").unwrap();
}

#[test]
fn of_several_imports_of_one_name_one_wins_and_nothing_else_is_left() {
    let (catalog, models, source) = workspace();
    let path = source.join("model.gguf");
    let start = std::sync::Barrier::new(4);
    let results: Vec<_> = std::thread::scope(|scope| {
        let import = || {
            start.wait();
            catalog.import(&path, "m", &mut |_| ())
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(import)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let lost = |result: &&Result<Manifest, _>| matches!(result, Err(ArtifactError::ModelExists { .. }));
    assert_eq!(results.iter().filter(lost).count(), 3, "{results:?}");
    assert_eq!(fs::read_dir(&models).unwrap().count(), 1);
    load(&catalog, "m").unwrap();
}

#[test]
fn an_import_that_is_broken_off_leaves_nothing() {
    let (catalog, models, source) = workspace();
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        catalog.import(&source.join("model.gguf"), "m", &mut |_| panic!("the caller gave up"))
    }));
    assert!(broken.is_err());
    assert_eq!(fs::read_dir(models).unwrap().count(), 0);
}

#[test]
fn hub_caches_of_symbolic_links_are_imported_as_files() {
    #[cfg(unix)]
    {
        let (catalog, _, source) = workspace();
        let cache = source.join("cache");
        fs::create_dir(&cache).unwrap();
        std::os::unix::fs::symlink(source.join("model.gguf"), cache.join("weights.gguf")).unwrap();
        catalog.import(&cache, "m", &mut |_| ()).unwrap();
        let about = fs::symlink_metadata(catalog.path("m").unwrap().join("weights.gguf")).unwrap();
        assert!(about.is_file());
    }
}

#[test]
fn a_manifest_is_read_strictly_and_written_the_same_way_each_time() {
    let (catalog, _, source) = workspace();
    let manifest = catalog.import(&source.join("model.gguf"), "m", &mut |_| ()).unwrap();
    let path = catalog.path("m").unwrap().join("manifest.json");
    let good = fs::read_to_string(&path).unwrap();
    assert_eq!(good, manifest.to_json());
    assert_eq!(Manifest::read(&path).unwrap(), manifest);
    for (old, new) in [
        ("\"version\": 1", "\"version\": 2"),
        ("\"model.gguf\"", "\"../model.gguf\""),
        ("\"model.gguf\"", "\"manifest\\u0000\""),
        ("\"name\": \"m\"", "\"name\": \"n\""),
        ("\"created\"", "\"unknown\": 1, \"created\""),
        ("\"sha256\": \"", "\"sha256\": \"0"),
        ("\n}", "\n"),
    ] {
        fs::write(&path, good.replacen(old, new, 1)).unwrap();
        assert!(matches!(load(&catalog, "m"), Err(ArtifactError::BadManifest { .. })), "{new}");
    }
    assert_eq!(catalog.list().unwrap().broken.len(), 1);
}

#[test]
fn a_models_digest_is_what_sha256sum_would_say() {
    let (_, _, source) = workspace();
    let manifest = Manifest::of(&source.join("hf"), "x", &mut |_| ()).unwrap();
    let lines: String = manifest.files.iter().map(|file| format!("{}  {}\n", file.sha256, file.path)).collect();
    assert_eq!(manifest.digest(), Digest::of(lines.as_bytes()));
    let files = Verified::check(&source.join("hf"), &manifest, &mut |_| ()).unwrap();
    assert_eq!(files.names().count(), 3);
    let (found, of_it) = Verified::as_found(&source.join("hf"), "x", &mut |_| ()).unwrap();
    assert_eq!((found.digest(), of_it.files), (manifest.digest(), manifest.files.clone()));
    assert_eq!(found.layout(), files.layout());
    fs::write(source.join("hf/tokenizer.json"), "[]").unwrap();
    let changed = Verified::check(&source.join("hf"), &manifest, &mut |_| ());
    assert!(matches!(changed, Err(ArtifactError::DigestMismatch { file, .. }) if file == "tokenizer.json"));
}

#[test]
fn a_model_outside_the_catalog_is_read_again_only_when_it_was_touched() {
    let (_, models, source) = workspace();
    let (hf, memory) = (source.join("hf"), models.join("digests.json"));
    let found = |path: &Path| {
        let mut read = 0;
        let found = Verified::as_found_before(path, "x", &memory, &mut |progress| read = progress.done_bytes);
        let (files, manifest) = found.unwrap();
        let (fresh, all) = Verified::as_found(path, "x", &mut |_| ()).unwrap();
        assert_eq!((files.digest(), files.layout(), manifest.files), (fresh.digest(), fresh.layout(), all.files));
        read
    };
    let total = Manifest::of(&hf, "x", &mut |_| ()).unwrap().size_bytes();
    assert_eq!(found(&hf), total);
    // A fresh file's clock must tick before its digest is remembered; hash until it has.
    while found(&hf) > 0 {}
    assert_eq!(found(&hf), 0);
    fs::write(hf.join("tokenizer.json"), "[]").unwrap();
    assert_eq!(found(&hf), 2);
    // Another file of the same length, times and all: only the change time and the inode tell.
    let (old, new) = (hf.join("config.json"), hf.join("other.json"));
    let about = fs::metadata(&old).unwrap();
    let text = fs::read_to_string(&old).unwrap();
    fs::write(&new, text.replace("Mistral", "Another")).unwrap();
    fs::File::options().write(true).open(&new).unwrap().set_modified(about.modified().unwrap()).unwrap();
    fs::rename(&new, &old).unwrap();
    assert!(found(&hf) >= about.len());
    while found(&hf) > 0 {}
    // A damaged memory is no memory; one that cannot be written costs time only.
    fs::write(&memory, "{\"files\":{").unwrap();
    assert_eq!(found(&hf), total);
    fs::remove_file(&memory).unwrap();
    fs::create_dir(&memory).unwrap();
    assert_eq!(found(&hf), total);
    assert_eq!(found(&hf), total);
    let left = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    assert_eq!(fs::read_dir(&models).unwrap().map(|entry| left(entry.unwrap())).collect::<Vec<_>>(), ["digests.json"]);
}

#[test]
fn a_memory_of_digests_forgets_files_that_are_gone() {
    let (_, models, source) = workspace();
    let (memory, first, second) = (models.join("digests.json"), source.join("model.gguf"), source.join("second.gguf"));
    fs::copy(&first, &second).unwrap();
    let found = |path: &Path| {
        let mut read = 0;
        Verified::as_found_before(path, "x", &memory, &mut |progress| read = progress.done_bytes).unwrap();
        read
    };
    while found(&first) > 0 {}
    while found(&second) > 0 {}
    assert_eq!(found(&first), 0, "the second has not pushed the first out");
    fs::remove_file(&first).unwrap();
    fs::write(&second, gguf()).unwrap();
    while found(&second) > 0 {}
    let text = fs::read_to_string(&memory).unwrap();
    assert!(text.contains("second.gguf") && !text.contains("model.gguf"), "{text}");
}

#[test]
fn the_built_in_model_must_have_the_expected_digest() {
    static BYTES: &[u8] = b"GGUF, in spirit";
    let files = Verified::embedded(BYTES, Digest::of(BYTES)).unwrap();
    assert_eq!(files.embedded(), Some(BYTES));
    assert!(files.layout().is_none());
    let wrong = Verified::embedded(BYTES, Digest::of(b"other"));
    assert!(matches!(wrong, Err(ArtifactError::DigestMismatch { .. })));
}
