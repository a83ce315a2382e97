//! Prefixes that outlive their sequences: pinned in memory, kept on disk.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use falaj_artifact::{Digest, Verified};
use falaj_engine::{Engine, EngineOptions, PinError, Request};
use falaj_kernels::{Format, KvFormat};
use falaj_model::synthetic::{Checkpoint, tiny_config};
use falaj_model::{KvCache, LoadOptions, Model, load};

use crate::run::{MODEL, VOCAB, count, end, options, prompt, read, request, run, start};

/// A cache of `pages` pages.
fn small(model: &Model, pages: usize) -> EngineOptions {
    let cache_bytes = pages * KvCache::page_bytes(model.config(), KvFormat::F16);
    EngineOptions { cache_bytes, context_tokens: 160, ..options() }
}

/// Fills the cache with what nobody asks for again.
fn crowd(engine: &Engine) {
    for seed in 100..110 {
        run(engine, request(prompt(seed, 120), 2));
    }
}

#[test]
fn a_pinned_prefix_stays() {
    let engine = start(&MODEL, small(&MODEL, 24));
    let asked = || Request { logprobs: Some(1), ..request(prompt(1, 100), 5) };
    let expected = run(&engine, asked()).answer();
    crowd(&engine);
    assert_eq!(run(&engine, asked()).usage().cached_tokens, 0);

    let pin = engine.pin(prompt(1, 70), 0).unwrap();
    crowd(&engine);
    let warm = run(&engine, asked());
    assert_eq!((warm.usage().cached_tokens, warm.answer()), (64, expected));
    assert_eq!(count(&engine, |stats| &stats.pages_pinned), 4);
    // Under one salt only; and never so much that a whole context finds no place.
    assert_eq!(run(&engine, Request { cache_salt: 1, ..asked() }).usage().cached_tokens, 0);
    let PinError::TooLarge { pages: 10, left: 9 } = engine.pin(prompt(2, 160), 0).err().unwrap() else { panic!() };
    assert_eq!(run(&engine, request(prompt(3, 100), 60)).tokens.len(), 60);

    engine.unpin(pin);
    crowd(&engine);
    assert_eq!(run(&engine, asked()).usage().cached_tokens, 0);
    assert_eq!(count(&engine, |stats| &stats.pages_pinned), 0);
    // One that is given up before it is computed, and one that is kept to the end.
    engine.unpin(engine.pin(prompt(5, 100), 0).unwrap());
    let kept = engine.pin(prompt(6, 40), 0).unwrap();
    assert_eq!(read(kept.stream).usage().completion_tokens, 0);
    end(&engine);
    let off = start(&MODEL, EngineOptions { prefix_cache: false, ..options() });
    assert!(matches!(off.pin(prompt(1, 70), 0), Err(PinError::NoPrefixCache)));
    end(&off);
}

/// A model with a digest, as files have one.
fn with_digest(seed: u64) -> Arc<Model> {
    let file = Checkpoint::new(tiny_config(VOCAB, 512), seed).unwrap().gguf(|_| Format::Q8_0).unwrap();
    let digest = Digest::of(&file);
    let files = Verified::embedded(file.leak(), digest).unwrap();
    Arc::new(load(&files, LoadOptions::default()).unwrap())
}

fn directory(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("prefixes-{name}"));
    let _ = fs::remove_dir_all(&dir);
    dir
}

#[test]
fn prefixes_outlive_the_process() {
    let dir = directory("restart");
    let model = with_digest(3);
    let kept = |model: &Model| EngineOptions { prefix_dir: Some(dir.clone()), ..small(model, 24) };
    let asked = |salt| Request { logprobs: Some(2), cache_salt: salt, ..request(prompt(1, 100), 8) };
    let engine = start(&model, kept(&model));
    let expected = run(&engine, asked(7));
    end(&engine);
    let written = count(&engine, |stats| &stats.disk_pages_written);
    assert_eq!(written, 6);

    let engine = start(&model, kept(&model));
    let warm = run(&engine, asked(7));
    assert_eq!((warm.usage().cached_tokens, warm.answer()), (96, expected.answer()));
    assert_eq!(count(&engine, |stats| &stats.disk_pages_read), 6);
    assert_eq!(run(&engine, asked(8)).usage().cached_tokens, 0);
    // What the crowd drives out of memory comes back, too.
    crowd(&engine);
    let again = run(&engine, asked(7));
    assert_eq!((again.usage().cached_tokens, again.answer()), (96, expected.answer()));
    // Nothing that came from there is written again.
    engine.shutdown(false);

    // Another model finds nothing of it.
    let other = with_digest(4);
    let engine = start(&other, kept(&other));
    assert_eq!(run(&engine, asked(7)).usage().cached_tokens, 0);
    assert_eq!(count(&engine, |stats| &stats.disk_pages_read), 0);
    end(&engine);
    fs::remove_dir_all(dir).unwrap();
}

/// Whatever is done to the files, the answer is the same; at worst the prompt is computed.
#[test]
fn damaged_pages_are_never_used() {
    let dir = directory("damaged");
    let model = with_digest(3);
    let kept = || EngineOptions { prefix_dir: Some(dir.clone()), ..small(&model, 24) };
    let asked = || Request { logprobs: Some(2), ..request(prompt(1, 100), 8) };
    let engine = start(&model, kept());
    let expected = run(&engine, asked()).answer();
    end(&engine);
    let inner = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    let files: Vec<_> = fs::read_dir(inner).unwrap().map(|entry| entry.unwrap().path()).collect();
    for (number, file) in files.iter().enumerate() {
        let mut bytes = fs::read(file).unwrap();
        let place = bytes.len() * (number + 1) / (files.len() + 1);
        bytes[place] ^= 0x10;
        fs::write(file, bytes).unwrap();
    }
    let engine = start(&model, kept());
    let outcome = run(&engine, asked());
    assert_eq!((outcome.usage().cached_tokens, outcome.answer()), (0, expected));
    assert_eq!(count(&engine, |stats| &stats.disk_files_damaged), 1);
    end(&engine);
    fs::remove_dir_all(dir).unwrap();
}
