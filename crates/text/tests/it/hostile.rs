//! Foreign bytes: lying, cut and hostile files and templates give errors, not crashes, and stay small.

use falaj_artifact::gguf::{Array, GgufWriter, StringArray, Value as Meta};
use falaj_text::{ChatFormat, Conversation, Message, Special, TextError, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{byte_level, gguf_gpt2, gguf_llama, json as file, parse, read};

fn all(bytes: &[u8]) {
    for tokenizer in
        [Tokenizer::from_tokenizer_json(bytes), Tokenizer::from_tekken(bytes), Tokenizer::from_sentencepiece(bytes)]
            .into_iter()
            .flatten()
    {
        for text in ["", " a é \u{0}", "<s>[INST]😀"] {
            let tokens = tokenizer.encode(text, Special::Parse);
            let _ = tokenizer.decode(&tokens);
        }
    }
}

#[test]
fn cut_files() {
    for name in ["tekken.json", "tokenizer.model.v3", "unigram.model", "bytelevel.json", "llama.json"] {
        let bytes = read(name);
        for at in (0..bytes.len()).step_by(bytes.len() / 24 + 1) {
            all(&bytes[..at]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn changed_files(which in 0usize..3, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = read(["tokenizer.model.v1", "unigram.model", "bytelevel.json"][which]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        all(&bytes);
    }

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        all(&bytes);
    }
}

#[test]
fn lying_tekken_files() {
    let base = file("tekken.json");
    let with = |path: &[&str], value: Value| {
        let mut file = base.clone();
        *path.iter().fold(&mut file, |at, key| &mut at[*key]) = value;
        Tokenizer::from_tekken(&serde_json::to_vec(&file).unwrap())
    };
    assert!(with(&["config", "default_vocab_size"], json!(u64::MAX)).is_err());
    assert!(with(&["config", "default_vocab_size"], json!(1_000_000)).is_err());
    assert!(with(&["config", "default_num_special_tokens"], json!(1u64 << 60)).is_err());
    assert!(with(&["config", "default_vocab_size"], json!(3)).is_err());
    assert!(with(&["config", "pattern"], json!("((")).is_err());
    assert!(with(&["config", "pattern"], json!("a".repeat(100_000))).is_err());
    assert!(with(&["special_tokens"], json!([{"rank": 1u64 << 40, "token_str": "x"}])).is_err());
    assert!(with(&["vocab"], json!([])).is_err());
    // A pattern that backtracks for ever is given up.
    let tokenizer = with(&["config", "pattern"], json!(r"(?:a*)*(?!\S)b|\S")).unwrap();
    assert!(!tokenizer.encode(&"a".repeat(5000), Special::Plain).is_empty());
    // A long text without a cut stays linearithmic.
    let tokenizer = with(&["config", "pattern"], json!(r"(?s).+")).unwrap();
    assert!(tokenizer.encode(&"ab".repeat(50_000), Special::Plain).len() > 100);
}

#[test]
fn lying_tokenizer_json() {
    let base = file("bytelevel.json");
    let with = |path: &[&str], value: Value| {
        let mut file = base.clone();
        *path.iter().fold(&mut file, |at, key| &mut at[*key]) = value;
        Tokenizer::from_tokenizer_json(&serde_json::to_vec(&file).unwrap())
    };
    assert!(with(&["model", "vocab", "zzz"], json!(4_000_000_000u32)).is_err());
    let grow = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaa"});
    let error = with(&["normalizer"], json!({"type": "Sequence", "normalizers": vec![grow; 12]})).unwrap_err();
    assert!(matches!(error, TextError::TooLarge { .. }), "{error}");
}

#[test]
fn lying_ggufs() {
    for (key, value) in [
        ("tokenizer.ggml.model", Meta::from("rwkv")),
        ("tokenizer.ggml.model", Meta::from(3u32)),
        ("tokenizer.ggml.pre", "no-such".into()),
        ("tokenizer.ggml.tokens", 1u32.into()),
        ("tokenizer.ggml.tokens", StringArray::with_capacity(0).into()),
        ("tokenizer.ggml.token_type", Meta::Array(Box::new(Array::I32(vec![1])))),
        ("tokenizer.ggml.merges", "x".into()),
        ("tokenizer.huggingface.json", "{}".into()),
    ] {
        let mut gguf = gguf_gpt2("qwen2");
        gguf.metadata.insert(key.to_owned(), value);
        let error = Tokenizer::from_gguf(&gguf).unwrap_err();
        assert!(error.to_string().len() < 600, "{error}");
    }
    let mut gguf = gguf_llama();
    gguf.metadata.insert("tokenizer.ggml.scores".into(), Meta::Array(Box::new(Array::F32(vec![f32::NAN]))));
    assert!(Tokenizer::from_gguf(&gguf).is_err());
    assert!(Tokenizer::from_gguf(&parse(GgufWriter::new("llama"))).is_err());
    // Ends that are no tokens are dropped; scores that are no numbers order somehow.
    let mut gguf = gguf_llama();
    gguf.metadata.insert("tokenizer.ggml.eos_token_id".into(), u32::MAX.into());
    let count = gguf.f32s("tokenizer.ggml.scores").unwrap().len();
    gguf.metadata.insert("tokenizer.ggml.scores".into(), Meta::Array(Box::new(Array::F32(vec![f32::NAN; count]))));
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert!(tokenizer.eos_tokens().iter().all(|token| (*token as usize) < tokenizer.vocab_size()));
    assert_eq!(tokenizer.decode(&tokenizer.encode("hello", Special::Plain)), "hello");
}

#[test]
fn templates_that_want_too_much() {
    let tokenizer = byte_level();
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    let long = format!("{{{{ 1{} }}}}", "+1".repeat(50_000));
    let branches = format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}x".repeat(20_000));
    let constant = format!("{{{{ {} }}}}", vec!["'x' * 99999999"; 20].join(" ~ "));
    let names = format!(
        "{{% set a0 = 'xxxxxxxxxx' %}}{}{{{{ a60 }}}}",
        (0..60).map(|i| format!("{{% set a{} = a{i} ~ a{i} %}}", i + 1)).collect::<String>()
    );
    let source: Vec<&str> = vec![
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x | length }}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = [n.x, n.x] | join('') %}{% endfor %}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x == n.x }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}",
        "{% set n = namespace(x={}) %}{% for i in range(90000) %}{% set n.x = {'a': n.x} %}{% endfor %}",
        "{% set n = namespace(x={}) %}{% for i in range(90000) %}{% set n.x = dict(a=n.x) %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(99999) %}{% for j in range(99999) %}{% set n.x = n.x ~ i %}{% endfor %}{% endfor %}",
        "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('a') }}",
        "{% macro m(x) %}{% for i in range(99999) %}{{ x }}{{ m(x) }}{% endfor %}{% endmacro %}{{ m('a') }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}some text that is written again and again{% endfor %}{% endfor %}",
        "{{ 'x' * 99999999 }}",
        "{% set x = 'x' %}{{ x * 99999999999 }}",
        "{{ 'a' | indent(99999999999) }}{{ 'a\nb' | indent(9999999999) }}",
        "{{ range(99999) | map('string') | list | tojson | length }}{{ range(999999999) }}",
        "{{ ['a'] * 99999999999 }}",
        "{% set n = namespace() %}{% set n.n = n %}{{ n }}{{ n == n }}",
        "{% include 'x' %}",
        "{% extends messages %}",
        "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{{ messages | map('replace', 'a', 'b') }}",
        "{{ '%999999999d' | format(1) }}{{ '{:>999999999}'.format(1) }}",
        &deep,
        &long,
        &branches,
        &constant,
        &names,
    ];
    for source in source {
        let conversation = Conversation { messages: vec![Message::user("hello")], ..Conversation::default() };
        let result = ChatFormat::jinja(source, &tokenizer).and_then(|format| format.render(&conversation));
        let shown: String = source.chars().take(120).collect();
        let error = result.map(|prompt| prompt.text.len()).expect_err(&shown).to_string();
        assert!(error.len() < 600, "{error}");
    }
}

#[test]
fn long_conversations_still_render() {
    let tokenizer = byte_level();
    let template = file("templates.json")["chatml"].as_str().unwrap().to_owned();
    let accumulating = "{% set n = namespace(t='') %}{% for m in messages %}{% if loop.index0 == messages | length - 1 %}!{% endif %}{% set n.t = n.t + m.content | trim %}{% endfor %}{{ n.t }}";
    let messages = (0..600).map(|at| {
        if at % 2 == 0 { Message::user("question ".repeat(40)) } else { Message::assistant("answer ".repeat(40)) }
    });
    let conversation = Conversation { messages: messages.collect(), ..Conversation::default() };
    for template in [template.as_str(), accumulating] {
        let prompt = ChatFormat::jinja(template, &tokenizer).unwrap().render(&conversation).unwrap();
        assert!(prompt.text.len() > 150_000);
    }
}
