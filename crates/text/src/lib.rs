//! From conversations to tokens and back: tokenizers, chat formats, safe streaming text, tool calls, and grammars that
//! restrict what a model may write. Knows no wire types, no HTTP and no weights; files come in as bytes.
//! Start at [`ModelText`], which holds what one model needs.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod chat;
mod conversation;
mod conversion;
mod detokenizer;
mod error;
mod grammar;
mod model_text;
mod output;
mod stop;
mod tokenizer;

pub use chat::{Answer, ChatFormat, InstructVersion, Lesson, Prompt, ToolSyntax};
pub use conversation::{Conversation, Message, Part, Role, Tool, ToolCall, ToolChoice};
pub use conversion::{gguf_metadata, hugging_face_files};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use grammar::{Grammar, GrammarCompiler, Matcher};
pub use model_text::ModelText;
pub use output::{OutputParser, Piece};
pub use stop::{StopFinder, StopStep};
pub use tokenizer::{Special, TokenKind, Tokenizer, learn_vocabulary};
