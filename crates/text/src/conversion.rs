//! A model's words in another format's files: a Hugging Face folder's as GGUF metadata (`to_gguf.rs`), a GGUF's as the files of a
//! folder (`to_json.rs`). Nothing leaves here that gives other tokens or another prompt than the original on the texts below.

mod to_gguf;
mod to_json;

use std::collections::BTreeMap;

use falaj_artifact::gguf::{Gguf, Value};

use crate::model_text::Folder;
use crate::tokenizer::TokenKind;
use crate::{ChatFormat, Conversation, Message, ModelText, Special, TextError, Tokenizer};
use to_gguf::Written;

/// The tokenizer and the chat template in `files` of a model's folder, names and contents, as llama.cpp names them in a GGUF, filled up
/// to the `vocab_size` rows of its embedding.
///
/// # Errors
/// `Conversion` for a tokenizer that GGUF has no words for, and for one that would give other tokens; `File` and `Template`.
pub fn gguf_metadata(files: &[(&'static str, Vec<u8>)], vocab_size: usize) -> Result<Vec<(String, Value)>, TextError> {
    let folder = Folder::Memory(files);
    let original = ModelText::from_folder(&folder)?;
    let Written { metadata, template, looks_otherwise } = to_gguf::written(&folder, &original, vocab_size)?;
    let written: BTreeMap<String, Value> = metadata.iter().cloned().collect();
    let gguf = Gguf { version: 3, metadata: written, tensors: BTreeMap::new(), data_offset: 0 };
    // Mistral's own formats are no templates: a GGUF carries the template beside them.
    let chat = template.map(|template| ChatFormat::jinja(&template, &original.tokenizer)).transpose()?;
    let (original, written) = (ModelText { chat, ..original }, ModelText::from_gguf(&gguf)?);
    same(&original, &written, "a GGUF")?;
    if looks_otherwise {
        same_words(&original.tokenizer, &written.tokenizer)?;
    }
    Ok(metadata)
}

/// The tokenizer and the chat template of a GGUF as the files of a Hugging Face folder: names and contents.
///
/// # Errors
/// As [`gguf_metadata`].
pub fn hugging_face_files(gguf: &Gguf) -> Result<Vec<(&'static str, Vec<u8>)>, TextError> {
    let original = ModelText::from_gguf(gguf)?;
    let files = to_json::files(gguf, &original)?;
    same(&original, &ModelText::from_folder(&Folder::Memory(&files))?, "a tokenizer.json")?;
    Ok(files)
}

/// Whether both read and write the same.
fn same(original: &ModelText, written: &ModelText, form: &'static str) -> Result<(), TextError> {
    let differ = |what: &str| Err(fail(form, format!("it would give {what} than the model's own")));
    let (a, b) = (&original.tokenizer, &written.tokenizer);
    for text in TEXTS {
        for special in [Special::Plain, Special::Parse] {
            let tokens = a.encode(text, special);
            if tokens != b.encode(text, special) {
                return differ("other tokens");
            }
            if a.decode(&tokens) != b.decode(&tokens) {
                return differ("another text");
            }
        }
    }
    if (a.eos(), a.add_bos(), a.bos().filter(|_| a.add_bos()))
        != (b.eos(), b.add_bos(), b.bos().filter(|_| b.add_bos()))
    {
        return differ("another beginning or end");
    }
    if let (Some(a), Some(b)) = (&original.chat, &written.chat) {
        let messages = vec![
            Message::user(TEXTS[0]),
            Message::assistant(TEXTS[1]),
            Message::user(TEXTS[2]),
            Message::assistant("1 + 1 = 2"),
            Message::user("</s> 3?"),
        ];
        let conversation = Conversation { messages, now_s: Some(0), ..Conversation::default() };
        let tokens = |chat: &ChatFormat| chat.render(&conversation).map(|prompt| prompt.tokens).ok();
        if tokens(a) != tokens(b) {
            return differ("another prompt");
        }
    }
    Ok(())
}

/// Whether each word of the vocabulary, as a text, gives the same: where merges lead to all of them, it changes nothing whether they are
/// looked up first.
fn same_words(a: &Tokenizer, b: &Tokenizer) -> Result<(), TextError> {
    for token in (0..a.vocab_size() as u32).filter(|token| a.token_kind(*token) == TokenKind::Normal) {
        let Ok(word) = std::str::from_utf8(a.token_bytes(token)) else { continue };
        if a.encode(word, Special::Plain) != b.encode(word, Special::Plain) {
            let reason = format!(
                "llama.cpp would cut `{word}` otherwise: it heeds the file's `ignore_merges` only as the pattern has it"
            );
            return Err(fail("a GGUF", reason));
        }
    }
    Ok(())
}

fn fail(form: &'static str, reason: impl Into<String>) -> TextError {
    TextError::Conversion { form, reason: reason.into() }
}

/// What tokenizers differ on: words and marks of three languages, digits, runs of spaces and lines, code, bytes of rare characters,
/// and control tokens' names.
const TEXTS: [&str; 6] = [
    "The channel's water, measured in turns, reached 1234 gardens by 6:45 — didn't it?",
    "L'eau du canal n'arrive qu'à l'été ; où était-elle ? Ça coûte 12,50 € et 3 000 pas…",
    "الفَلَجُ قناةُ ماءٍ، تتقاسمها القرية منذ ٣٠٠٠ سنة؛ هل وصلت المياه إلى الحقول؟ ــ نعم!",
    "fn main() {\n\tlet x = [1, 22, 333];\r\n    // TODO: I'LL fix it   \n\n\n}  \u{a0}end",
    "日本語と한국어 😀👩\u{200d}🌾 naïve Ωmega İstanbul \u{7f}\u{1}",
    "<s>[INST] a </s><|im_start|>user\nb<|im_end|> <unk> <tool_call>{}</tool_call>  c",
];
