//! A model's words in the other format's files: the same tokens, whichever way they went.

use std::collections::BTreeSet;
use std::fs;

use falaj_artifact::gguf::Gguf;
use falaj_text::{ModelText, Special, gguf_metadata, hugging_face_files};
use serde_json::{Value, json};

use crate::support::{gguf_gpt2, json as golden, read};

type Files = Vec<(&'static str, Vec<u8>)>;

/// What is read from a folder with these files.
fn text(name: &str, files: &Files) -> ModelText {
    let dir = std::env::temp_dir().join(format!("falaj-conversion-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
    let names: BTreeSet<String> = files.iter().map(|(name, _)| (*name).to_owned()).collect();
    let text = ModelText::from_dir(&dir, &names);
    fs::remove_dir_all(dir).unwrap();
    text.unwrap()
}

fn gguf(files: &Files, vocab_size: usize) -> Gguf {
    let metadata = gguf_metadata(files, vocab_size).unwrap().into_iter().collect();
    Gguf { version: 3, metadata, tensors: Default::default(), data_offset: 0 }
}

/// Every text of the golden file, and what the two make of it.
fn assert_same(a: &ModelText, b: &ModelText) {
    for text in golden("texts.json").as_array().unwrap() {
        let text = text.as_str().or_else(|| text["text"].as_str()).unwrap();
        for special in [Special::Plain, Special::Parse] {
            let tokens = a.tokenizer.encode(text, special);
            assert_eq!(tokens, b.tokenizer.encode(text, special), "{text}");
            assert_eq!(a.tokenizer.decode(&tokens), b.tokenizer.decode(&tokens));
        }
    }
    assert_eq!((a.tokenizer.bos(), a.tokenizer.eos()), (b.tokenizer.bos(), b.tokenizer.eos()));
    assert_eq!(a.tokenizer.add_bos(), b.tokenizer.add_bos());
}

const TEMPLATE: &str = "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>{{ m['content'] }}<|eot_id|>{% endfor %}";

fn config() -> Vec<u8> {
    let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE});
    serde_json::to_vec(&config).unwrap()
}

#[test]
fn a_folder_becomes_a_gguf_and_a_folder_again() {
    let (name, model, pre, size) = ("bytelevel.json", "gpt2", Some("qwen2"), 600);
    let files = vec![("tokenizer.json", read(name)), ("tokenizer_config.json", config())];
    let gguf = gguf(&files, size);
    assert_eq!(gguf.str("tokenizer.ggml.model").unwrap(), model);
    assert_eq!(gguf.get::<&str>("tokenizer.ggml.pre").unwrap(), pre);
    assert_eq!(gguf.strings("tokenizer.ggml.tokens").unwrap().len(), size);
    assert_eq!(gguf.get::<&str>("tokenizer.chat_template").unwrap(), Some(TEMPLATE));
    let original = text(name, &files);
    assert_same(&original, &ModelText::from_gguf(&gguf).unwrap());
    let back = text(&format!("{name}-back"), &hugging_face_files(&gguf).unwrap());
    assert_same(&original, &back);
    assert!(back.chat.is_some());
}

#[test]
fn every_named_cut_survives_as_patterns() {
    for pre in ["llama-bpe", "tekken", "gpt-2", "qwen2", "smollm", "default"] {
        let there = gguf_gpt2(pre);
        let files = hugging_face_files(&there).unwrap();
        assert_same(&ModelText::from_gguf(&there).unwrap(), &text(pre, &files));
        let back = gguf(&files, there.strings("tokenizer.ggml.tokens").unwrap().len());
        assert_eq!(back.str("tokenizer.ggml.pre").unwrap(), pre);
    }
}

#[test]
fn sentencepiece_files_become_scores() {
    for name in ["tokenizer.model.v1", "tokenizer.model.v2", "tokenizer.model.v3"] {
        let files = vec![(name, read(name))];
        let original = text(name, &files);
        let gguf = gguf(&files, original.tokenizer.vocab_size());
        assert_same(&original, &ModelText::from_gguf(&gguf).unwrap());
    }
}

#[test]
fn words_that_only_ignored_merges_reach_are_refused() {
    let file = |left_out: Option<usize>| -> Files {
        let mut file = golden("bytelevel.json");
        file["model"]["ignore_merges"] = true.into();
        if let Some(number) = left_out {
            file["model"]["merges"].as_array_mut().unwrap().remove(number);
        }
        vec![("tokenizer.json", serde_json::to_vec(&file).unwrap()), ("tokenizer_config.json", config())]
    };
    // Merges lead to every word: no text depends on whether they are looked up first.
    let whole = file(None);
    assert_same(&text("ignored", &whole), &ModelText::from_gguf(&gguf(&whole, 600)).unwrap());
    // Without one merge a word is only found whole, if at all; where no usual text has it, it tells itself.
    let merges = golden("bytelevel.json")["model"]["merges"].as_array().unwrap().len();
    let refused: Vec<String> = (merges - 20..merges)
        .filter_map(|number| gguf_metadata(&file(Some(number)), 600).err())
        .map(|error| error.to_string())
        .collect();
    assert!(refused.iter().any(|told| told.contains("`ignore_merges`")), "{refused:#?}");
}

#[test]
fn what_the_other_format_cannot_say_is_refused() {
    let refused = |files: Files, size| gguf_metadata(&files, size).unwrap_err().to_string();
    let changed = |change: fn(&mut Value)| {
        let mut file = golden("bytelevel.json");
        change(&mut file);
        refused(vec![("tokenizer.json", serde_json::to_vec(&file).unwrap())], 600)
    };
    let lower = changed(|file| file["normalizer"] = json!({"type": "Lowercase"}));
    assert!(lower.contains("rewrites text"), "{lower}");
    let cut = changed(|file| file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = ".".into());
    assert!(cut.contains("no name for the pattern"), "{cut}");
    let none = changed(|file| file["pre_tokenizer"] = Value::Null);
    assert!(none.contains("no name"), "{none}");
    let unigram = refused(vec![("tokenizer.model", read("unigram.model"))], 2000);
    assert!(unigram.contains("byte pairs"), "{unigram}");
    let small = refused(vec![("tokenizer.json", read("bytelevel.json"))], 100);
    assert!(small.contains("the model 100"), "{small}");
}
