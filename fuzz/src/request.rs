//! Any bytes as the body of each operation.

use falaj_protocol::Problem;
use falaj_protocol::chat::ChatRequest;
use falaj_protocol::completions::{CompletionRequest, FimRequest};
use falaj_protocol::embeddings::EmbeddingRequest;
use falaj_protocol::messages::MessagesRequest;

/// # Panics
/// When a refusal says nothing, or says too much.
pub fn run(bytes: &[u8]) {
    check(bytes, ChatRequest::parse(bytes));
    check(bytes, CompletionRequest::parse(bytes));
    check(bytes, FimRequest::parse(bytes));
    check(bytes, EmbeddingRequest::parse(bytes));
    check(bytes, MessagesRequest::parse(bytes));
    check(bytes, MessagesRequest::parse_count(bytes));
}

fn check<T>(bytes: &[u8], result: Result<T, Vec<Problem>>) {
    let Err(problems) = result else { return };
    assert!(!problems.is_empty() && problems.len() <= falaj_protocol::check::MOST_PROBLEMS);
    let reply = serde_json::to_string(&problems).expect("problems are plain JSON");
    // A body must not be able to blow up its own answer.
    assert!(reply.len() <= 16_384 + 16 * bytes.len(), "{} bytes for a body of {}", reply.len(), bytes.len());
}
