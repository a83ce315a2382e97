//! The OpenAPI document of this server, at `/openapi.json`: every operation, what it takes, what it answers. Bodies say what is
//! checked, not what one vendor's clients happen to send; shapes of answers are those of `protocol`.

mod schemas;

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

pub(crate) async fn publish() -> Response {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

fn document() -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.path.clone()).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(operation.method.to_owned(), operation.value());
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Falaj",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Open models behind one gate. The operations under `/v1` are those of Mistral's and Anthropic's clients, those under \
                `/openai/v1` are OpenAI's.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "bearer": [] }, { "x-api-key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "x-api-key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
            },
            "schemas": schemas::all(),
        },
    })
}

struct Operation {
    path: String,
    method: &'static str,
    summary: &'static str,
    query: &'static [Query],
    body: Option<Value>,
    /// Media types of a good answer.
    answers: &'static [&'static str],
    open: bool,
}

/// Name, type, and whether it must be there.
type Query = (&'static str, &'static str, bool);

const JSON: &[&str] = &["application/json"];
const STREAM: &[&str] = &["application/json", "text/event-stream"];
const BYTES: &[&str] = &["application/octet-stream"];
const TEXT: &[&str] = &["text/plain"];

impl Operation {
    fn new(method: &'static str, path: impl Into<String>, summary: &'static str) -> Self {
        Self { path: path.into(), method, summary, query: &[], body: None, answers: JSON, open: false }
    }

    /// A JSON body of a schema of this name.
    fn takes(mut self, schema: &str) -> Self {
        let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
        self.body = Some(json!({ "required": true, "content": { "application/json": { "schema": schema } } }));
        self
    }

    fn form(mut self, schema: &str) -> Self {
        let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
        self.body = Some(json!({ "required": true, "content": { "multipart/form-data": { "schema": schema } } }));
        self
    }

    fn asks(mut self, query: &'static [Query]) -> Self {
        self.query = query;
        self
    }

    fn answers(mut self, media: &'static [&'static str]) -> Self {
        self.answers = media;
        self
    }

    fn open(mut self) -> Self {
        self.open = true;
        self
    }

    fn value(&self) -> Value {
        let in_path = self.path.split(['{', '}']).skip(1).step_by(2).map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
        });
        let in_query = self.query.iter().map(|(name, kind, required)| {
            json!({ "name": name, "in": "query", "required": required, "schema": { "type": kind } })
        });
        let parameters: Vec<Value> = in_path.chain(in_query).collect();
        let good: Map<String, Value> = self.answers.iter().map(|media| ((*media).to_owned(), json!({}))).collect();
        let error = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } });
        let value = json!({
            "operationId": self.id(),
            "summary": self.summary,
            "parameters": parameters,
            "responses": {
                "200": { "description": "Done", "content": good },
                "4XX": { "description": "Refused: the message says why, and what helps", "content": error },
                "503": { "description": "Not now; `Retry-After` says when", "content": error },
            },
        });
        let body = self.body.clone().map(|body| ("requestBody".to_owned(), body));
        let open = self.open.then(|| ("security".to_owned(), json!([])));
        match value {
            Value::Object(object) => object.into_iter().chain(body).chain(open).collect(),
            other => other,
        }
    }

    fn id(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        std::iter::once(self.method).chain(words).collect::<Vec<_>>().join("_")
    }
}

fn operations() -> Vec<Operation> {
    let mut all = vec![
        Operation::new("post", "/v1/fim/completions", "Fills in between a prompt and a suffix")
            .takes("Fim")
            .answers(STREAM),
        Operation::new("post", "/v1/messages", "Answers a conversation, as Anthropic's clients ask")
            .takes("Messages")
            .answers(STREAM),
        Operation::new("post", "/v1/messages/count_tokens", "How many tokens a conversation is").takes("Messages"),
        Operation::new("post", "/tokenize", "Text to tokens").takes("Tokenize"),
        Operation::new("post", "/detokenize", "Tokens to text").takes("Detokenize"),
        Operation::new("get", "/tokenizer_info", "The tokenizer of a model").asks(&[("model", "string", false)]),
        Operation::new("get", "/v1/usage", "What the workspace used, by key or by model").asks(&[
            ("by", "string", false),
            ("from_ms", "integer", false),
            ("until_ms", "integer", false),
            ("key", "string", false),
        ]),
        Operation::new("get", "/v1/receipts", "Receipts of the workspace, with the salts that open them")
            .asks(&[("after", "string", false), ("limit", "integer", false)]),
        Operation::new("delete", "/v1/receipts", "Destroys those salts, for good").asks(&[("key", "string", false)]),
        Operation::new("get", "/v1/receipts/{id}", "The receipt of a request"),
        Operation::new("get", "/auth/me", "Who the caller is, by a key or a session"),
        Operation::new("post", "/auth/logout", "Ends the session of a browser"),
        Operation::new("get", "/auth/login", "Sends a browser to sign in")
            .asks(&[("return_to", "string", false)])
            .open(),
        Operation::new("get", "/auth/callback", "Where the identity provider sends it back to")
            .asks(&[("state", "string", false), ("code", "string", false), ("error", "string", false)])
            .open(),
        Operation::new("get", "/v1/files/{id}/url", "A link to a file that needs no key")
            .asks(&[("expiry", "integer", false)]),
        Operation::new("post", "/v1/fine_tuning/jobs/{id}/start", "Starts a job that waits to be started"),
        Operation::new("patch", "/v1/fine_tuning/models/{id}", "Changes name and description of a fine-tuned model")
            .takes("Tuned"),
        Operation::new("post", "/v1/fine_tuning/models/{id}/archive", "Archives a fine-tuned model"),
        Operation::new("delete", "/v1/fine_tuning/models/{id}/archive", "Brings it back"),
        Operation::new("post", "/openai/v1/fine_tuning/jobs/{id}/pause", "Pauses a job"),
        Operation::new("post", "/openai/v1/fine_tuning/jobs/{id}/resume", "Goes on with it"),
        Operation::new("get", "/openai/v1/fine_tuning/jobs/{id}/events", "What a job said").asks(PAGE),
        Operation::new("get", "/openai/v1/fine_tuning/jobs/{id}/checkpoints", "The checkpoints of a job").asks(PAGE),
        Operation::new("get", "/metrics", "Counters, for Prometheus; from another machine only with a key")
            .answers(TEXT)
            .open(),
        Operation::new("get", "/", "What this is").open(),
        Operation::new("get", "/health", "Whether the process lives").open(),
        Operation::new("get", "/ready", "Whether requests are taken").open(),
        Operation::new("get", "/openapi.json", "This document").open(),
        Operation::new("get", "/signed/files/{workspace}/{id}", "A file, by a link that was signed for it")
            .asks(&[("expires", "integer", true), ("signature", "string", true)])
            .answers(BYTES)
            .open(),
    ];
    for root in ["/v1", "/openai/v1"] {
        all.extend(both(root));
    }
    all
}

const PAGE: &[Query] = &[("after", "string", false), ("limit", "integer", false)];

/// What both dialects have, under the same names.
fn both(root: &str) -> Vec<Operation> {
    let new = |method, path: &str, summary| Operation::new(method, format!("{root}{path}"), summary);
    vec![
        new("post", "/chat/completions", "Answers a conversation").takes("Chat").answers(STREAM),
        new("post", "/completions", "Goes on with a text").takes("Completion").answers(STREAM),
        new("post", "/embeddings", "Vectors of texts").takes("Embedding"),
        new("get", "/models", "Models that the caller may use"),
        new("get", "/models/{id}", "One of them"),
        new("delete", "/models/{id}", "Deletes a fine-tuned model"),
        new("post", "/files", "Uploads a file").form("Upload"),
        new("get", "/files", "Files of the workspace").asks(&[
            ("page", "integer", false),
            ("page_size", "integer", false),
            ("after", "string", false),
            ("limit", "integer", false),
            ("order", "string", false),
            ("purpose", "string", false),
            ("search", "string", false),
        ]),
        new("get", "/files/{id}", "What is known of a file"),
        new("delete", "/files/{id}", "Deletes a file"),
        new("get", "/files/{id}/content", "The bytes of a file").answers(BYTES),
        new("post", "/fine_tuning/jobs", "Makes a fine-tuning job").asks(&[("dry_run", "boolean", false)]).takes("Job"),
        new("get", "/fine_tuning/jobs", "Jobs of the workspace").asks(&[
            ("page", "integer", false),
            ("page_size", "integer", false),
            ("after", "string", false),
            ("limit", "integer", false),
            ("model", "string", false),
            ("status", "string", false),
            ("suffix", "string", false),
        ]),
        new("get", "/fine_tuning/jobs/{id}", "Where a job stands"),
        new("post", "/fine_tuning/jobs/{id}/cancel", "Cancels a job"),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The router cannot be asked, so its page is read.
    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let page = include_str!("routes.rs");
        let mut routed = BTreeSet::new();
        let mut rest = page;
        while let Some((_, after)) = rest.split_once(".route(") {
            let (path, after) = after.trim_start().trim_start_matches('"').split_once('"').unwrap();
            let handlers: String = after.lines().next().unwrap().to_owned();
            for method in ["get", "post", "delete", "patch"] {
                let named = [format!(" {method}("), format!(".{method}(")];
                let upload = method == "post" && handlers.contains("upload.");
                if named.iter().any(|named| handlers.contains(named)) || upload {
                    let path = path.replace("{*", "{");
                    let nested = path.starts_with("/files") || path.starts_with("/fine_tuning");
                    let roots: &[&str] = if nested { &["/v1", "/openai/v1"] } else { &[""] };
                    routed.extend(roots.iter().map(|root| format!("{method} {root}{path}")));
                }
            }
            rest = after;
        }
        let said: BTreeSet<String> =
            operations().iter().map(|operation| format!("{} {}", operation.method, operation.path)).collect();
        assert!(said.len() > 50);
        assert_eq!(said, routed);
    }

    #[test]
    fn operations_are_told_apart_and_schemas_are_there() {
        let all = operations();
        let ids: BTreeSet<String> = all.iter().map(Operation::id).collect();
        assert_eq!(ids.len(), all.len());
        let document = document();
        let text = document.to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }
}
