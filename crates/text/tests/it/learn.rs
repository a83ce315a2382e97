//! Vocabularies made here: read back, the same each time, and honest about what they cannot do.

use falaj_text::{Special, Tokenizer, learn_vocabulary};

const CONTROLS: [&str; 3] = ["<unk>", "<s>", "</s>"];

fn texts() -> Vec<String> {
    let words = ["water", "canal", "village", "l'eau", "rivière", "قناة", "ماء", "القرية", "été", "sharing"];
    (0..400)
        .map(|at| (0..12).map(|word| words[(at * 7 + word * word * 3) % 10]).collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn a_learnt_vocabulary_reads_back_every_text() {
    let texts = texts();
    let learn = || learn_vocabulary(texts.iter().map(String::as_str), 300, &CONTROLS).unwrap();
    let file = learn();
    assert_eq!(file, learn(), "the same bytes each time");
    let tokenizer = Tokenizer::from_tokenizer_json(&file).unwrap();
    assert_eq!(
        (tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos(), tokenizer.add_bos()),
        (300, Some(1), Some(2), true)
    );
    for text in texts.iter().map(String::as_str).chain(["unseen: 日本語 😀\n\t", "</s>", "قناة ماء l'eau"])
    {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, Special::Plain)), text);
    }
    let seen = texts.concat();
    let rate = seen.len() as f64 / tokenizer.encode(&seen, Special::Plain).len() as f64;
    assert!(rate > 2.0, "{rate} bytes a token");
}

#[test]
fn what_cannot_be_learnt_is_refused() {
    let texts = texts();
    let learn = |size| learn_vocabulary(texts.iter().map(String::as_str), size, &CONTROLS).unwrap_err().to_string();
    assert!(learn(100).contains("256 bytes"), "{}", learn(100));
    assert!(learn(5000).contains("more text"), "{}", learn(5000));
    assert!(learn(1 << 21).contains("limit"), "{}", learn(1 << 21));
}
