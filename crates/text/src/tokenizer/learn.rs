//! A new vocabulary from text: byte-level BPE by the `tokenizers` crate, with the split and the settings of the built-in model.

use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Inner};

use super::MAX_VOCABULARY;
use crate::TextError;

/// Learns a vocabulary of `vocab_size` tokens, of which the first are `controls`, and returns its `tokenizer.json`. Plain
/// prompts begin with `<s>` where that is a control token. The same texts in the same order give the same bytes.
///
/// # Errors
/// `TooLarge` for more tokens than a vocabulary may have; `File` where the texts cannot fill it.
pub fn learn_vocabulary<'t>(
    texts: impl Iterator<Item = &'t str> + Send,
    vocab_size: usize,
    controls: &[&str],
) -> Result<Vec<u8>, TextError> {
    if vocab_size > MAX_VOCABULARY {
        return Err(TextError::TooLarge { what: "the vocabulary", got: vocab_size, max: MAX_VOCABULARY });
    }
    if vocab_size < 256 + controls.len() {
        let reason =
            format!("{vocab_size} tokens hold no 256 bytes and {} control tokens; ask for more", controls.len());
        return Err(fail(&reason));
    }
    let mut inner = Inner::new(BPE::default());
    let split = SplitPattern::Regex(SPLIT.to_owned());
    let split = Split::new(split, SplitDelimiterBehavior::Isolated, false).map_err(|error| fail(&error.to_string()))?;
    let bytes = ByteLevel::new(false, true, false);
    inner.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
    inner.with_decoder(Some(ByteLevel::default()));
    let specials = controls.iter().map(|name| AddedToken::from(*name, true).normalized(false)).collect();
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .special_tokens(specials)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .max_token_length(Some(LONGEST_TOKEN))
        .show_progress(false)
        .build()
        .into();
    inner.train(&mut trainer, texts).map_err(|error| fail(&error.to_string()))?;
    let got = inner.get_vocab_size(true);
    if got != vocab_size {
        return Err(fail(&format!(
            "the texts give {got} tokens only; give more text, or ask for a smaller vocabulary"
        )));
    }
    let text = inner.to_string(false).map_err(|error| fail(&error.to_string()))?;
    let mut file: Value = serde_json::from_str(&text).map_err(|error| fail(&error.to_string()))?;
    if let Some(id) = inner.token_to_id("<s>")
        && let Some(file) = file.as_object_mut()
    {
        let begin = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
        let processor = json!({
            "type": "TemplateProcessing",
            "single": [begin, text("A")],
            "pair": [begin, text("A"), text("B")],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [id], "tokens": ["<s>"]}},
        });
        file.insert("post_processor".to_owned(), processor);
    }
    serde_json::to_vec(&file).map_err(|error| fail(&error.to_string()))
}

fn fail(reason: &str) -> TextError {
    TextError::File { format: "new", reason: reason.chars().take(300).collect() }
}

/// Qwen 2's, which GGUF readers know by name: words with the mark before them, every digit alone.
const SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// In bytes: longer ones are mostly lines of dashes.
const LONGEST_TOKEN: usize = 24;
