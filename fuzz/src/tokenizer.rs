//! Any bytes as each of the files that hold a vocabulary: tokenizer.json, tekken.json, SentencePiece, GGUF. What loads is
//! then used as a server would use it.

use std::sync::Arc;

use falaj_artifact::gguf::Gguf;
use falaj_text::{ChatFormat, Detokenizer, Grammar, GrammarCompiler, InstructVersion, Special, Tokenizer};

use super::sample;

/// # Panics
/// When a vocabulary that was accepted does not keep its promises.
pub fn run(bytes: &[u8]) {
    let gguf = Gguf::parse(bytes).ok();
    // In the other format's files: refused, or the same; both are checked there.
    if let Some(Ok(files)) = gguf.as_ref().map(falaj_text::hugging_face_files) {
        assert!(files.iter().any(|(name, _)| *name == "tokenizer.json"));
    }
    for name in ["tokenizer.json", "tokenizer.model"] {
        let _ = falaj_text::gguf_metadata(&[(name, bytes.to_vec())], 4096);
    }
    let gguf = gguf.map(|gguf| Tokenizer::from_gguf(&gguf));
    let loaded = [
        Some(Tokenizer::from_tokenizer_json(bytes)),
        Some(Tokenizer::from_tekken(bytes)),
        Some(Tokenizer::from_sentencepiece(bytes)),
        gguf,
    ];
    for result in loaded.into_iter().flatten() {
        match result {
            Ok(tokenizer) => exercise(&Arc::new(tokenizer)),
            Err(error) => assert!(!error.to_string().is_empty() && error.to_string().len() < 4000, "{error}"),
        }
    }
}

fn exercise(tokenizer: &Arc<Tokenizer>) {
    let size = u32::try_from(tokenizer.vocab_size()).expect("a vocabulary has 32-bit ids");
    // The unknown token counts as a control token, but a character that the vocabulary lacks may yield it.
    let mut unknown = Vec::new();
    for character in TEXTS.iter().flat_map(|text| text.chars()) {
        let tokens = tokenizer.encode(character.encode_utf8(&mut [0; 4]), Special::Plain);
        unknown.extend(tokens.into_iter().filter(|token| tokenizer.is_special(*token)));
    }
    for text in TEXTS {
        let plain = tokenizer.encode(text, Special::Plain);
        assert!(plain.iter().all(|token| *token < size), "{text:?} gives a token beyond the vocabulary");
        let structure = plain.iter().find(|token| tokenizer.is_special(**token) && !unknown.contains(token));
        assert_eq!(structure, None, "{text:?} gives a control token");
        let parsed = tokenizer.encode(text, Special::Parse);
        assert!(parsed.iter().all(|token| *token < size));

        let mut stream = Detokenizer::new(tokenizer.clone());
        let mut streamed: String = plain.iter().map(|token| stream.push(*token)).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, tokenizer.decode(&plain), "a stream says what a whole says");
    }
    for token in [0, 1, size.saturating_sub(1), size, u32::MAX] {
        let _ = (tokenizer.token_bytes(token), tokenizer.token_kind(token), tokenizer.is_special(token));
        let mut stream = Detokenizer::new(tokenizer.clone());
        let _ = (stream.push(token), stream.finish());
    }
    for token in tokenizer.eos_tokens().into_iter().chain(tokenizer.bos()) {
        assert!(token < size);
    }
    if let Ok(format) = ChatFormat::mistral(InstructVersion::V3, tokenizer)
        && let Ok(prompt) = format.render(&sample::conversation(true, false))
    {
        assert!(prompt.tokens.iter().all(|token| *token < size));
    }
    // Building the trie walks every token; vocabularies of a fuzzer are small, others have tests of their own.
    if size < 4096
        && let Ok(mut matcher) = GrammarCompiler::new(tokenizer.clone()).compile(&Grammar::json_object())
    {
        let mut mask = vec![0_u32; tokenizer.vocab_size().div_ceil(32)];
        let _ = matcher.allowed(&mut mask);
        for token in (0..size).filter(|token| mask[*token as usize / 32] >> (token % 32) & 1 == 1).take(3) {
            let _ = matcher.accept(token);
        }
    }
}

const TEXTS: [&str; 6] = [
    "",
    " Hello,  world! 3.14\r\n\tfn main() {}",
    "L'été déjà — ça va ?",
    "السلام عليكم ورحمة الله ١٢٣",
    "🙂👩‍👩‍👧 \u{fdd0}\u{0}\u{feff}e\u{301}",
    "<s>[INST] a </s><|im_end|><unk>[TOOL_CALLS]<0x0A>▁a",
];
