//! Grammars that restrict what a model may write: JSON, a schema, a regular expression, tool calls. Compiled by
//! llguidance against the model's vocabulary, within limits of size and work, since they come from requests.

mod tools;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use serde_json::{Value, json};

use crate::{ChatFormat, TextError, TokenKind, Tokenizer, Tool, ToolChoice};

/// What may be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar {
    /// Its name in errors: `JSON schema`, `regular expression`, …
    what: &'static str,
    body: Body,
}

#[derive(Debug, Clone, PartialEq)]
enum Body {
    Schema(Value),
    Regex(String),
    Lark(String),
}

impl Grammar {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self { what: "JSON object", body: Body::Schema(spaced(json!({"type": "object"}))) }
    }

    /// JSON that fits the schema.
    pub fn json_schema(schema: &Value) -> Self {
        Self { what: "JSON schema", body: Body::Schema(spaced(schema.clone())) }
    }

    /// Text that matches the whole of a regular expression (Rust syntax, no look-around).
    pub fn regex(pattern: &str) -> Self {
        Self { what: "regular expression", body: Body::Regex(pattern.to_owned()) }
    }

    /// A grammar in llguidance's dialect of Lark.
    pub fn lark(grammar: &str) -> Self {
        Self { what: "grammar", body: Body::Lark(grammar.to_owned()) }
    }

    /// Text or calls in the model's own syntax, whose arguments fit the schemas of the tools. `None` when there is
    /// nothing to restrict: no tools, or `ToolChoice::None`.
    ///
    /// # Errors
    /// `Conversation` when a named tool is not among them, or calls are demanded of a model that can't call.
    pub fn tools(
        tools: &[Tool],
        choice: &ToolChoice,
        parallel: bool,
        format: &ChatFormat,
    ) -> Result<Option<Self>, TextError> {
        let lark = tools::grammar(tools, choice, parallel, format)?;
        Ok(lark.map(|lark| Self { what: "tools", body: Body::Lark(lark) }))
    }
}

/// Compiles grammars for one vocabulary. Clone-cheap through `Arc`; the vocabulary's trie is built on first use.
#[derive(Clone)]
pub struct GrammarCompiler {
    tokenizer: Arc<Tokenizer>,
    factory: Arc<OnceLock<Result<ParserFactory, TextError>>>,
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

impl GrammarCompiler {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, factory: Arc::new(OnceLock::new()) }
    }

    /// # Errors
    /// `Grammar` for one that is malformed, unsatisfiable or asks for too much work; `TooLarge`.
    pub fn compile(&self, grammar: &Grammar) -> Result<Matcher, TextError> {
        let what = grammar.what;
        if let Body::Schema(schema) = &grammar.body {
            check_shape(schema)?;
        }
        let text = match &grammar.body {
            Body::Schema(schema) => schema.to_string().len(),
            Body::Regex(text) | Body::Lark(text) => text.len(),
        };
        if text > MAX_GRAMMAR_BYTES {
            return Err(TextError::TooLarge { what, got: text, max: MAX_GRAMMAR_BYTES });
        }
        let top = match &grammar.body {
            Body::Schema(schema) => TopLevelGrammar::from_json_schema(schema.clone()),
            Body::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Body::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
        };
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer)).as_ref().map_err(Clone::clone)?;
        let failed = |why: &str| TextError::Grammar { what, reason: why.to_owned() };
        // The compiler follows references by recursion, as deep as a request says: a stack of its own, measured
        // against the longest chain that fits into the largest grammar.
        let parser = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
            let compiling = thread.spawn_scoped(scope, || match &grammar.body {
                Body::Schema(schema) => check_width(schema).map(|()| factory.create_parser(top)),
                Body::Regex(_) | Body::Lark(_) => Ok(factory.create_parser(top)),
            });
            let compiling = compiling.map_err(|_| failed("no thread can be started for it"))?;
            let parser = compiling.join().map_err(|_| failed("the compiler failed on it"))??;
            parser.map_err(|error| failed(&reason(&error.to_string())))
        })?;
        let mut inner = llguidance::Matcher::new(Ok(parser));
        // One that is too wide to begin with is refused before an answer begins.
        inner.compute_mask_or_eos().map_err(|error| failed(&reason(&error.to_string())))?;
        Ok(Matcher { inner })
    }
}

/// A grammar and how far the output has come in it.
pub struct Matcher {
    inner: llguidance::Matcher,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").finish_non_exhaustive()
    }
}

impl Matcher {
    /// Another output under the same grammar, from where this one stands. Shares nothing with it, and costs far less than
    /// compiling again.
    pub fn another(&self) -> Self {
        Self { inner: self.inner.deep_clone() }
    }

    /// Sets the bit of every token that may come next, `mask[token / 32] & 1 << token % 32`; end tokens where the
    /// output may end. The mask comes in clear.
    pub fn allowed(&mut self, mask: &mut [u32]) -> Result<(), TextError> {
        let allowed = self.inner.compute_mask_or_eos().map_err(|error| constraint(&error.to_string()))?;
        for (word, bits) in mask.iter_mut().zip(allowed.as_slice()) {
            *word |= *bits;
        }
        Ok(())
    }

    /// Takes the token that was chosen, end tokens included.
    pub fn accept(&mut self, token: u32) -> Result<(), TextError> {
        if self.inner.is_stopped() && !self.inner.is_error() {
            // Nothing but an end token is left to allow.
            return Ok(());
        }
        self.inner.consume_token(token).map_err(|error| constraint(&error.to_string()))
    }

    /// Whether the output may end here and nothing more may follow.
    pub fn is_finished(&self) -> bool {
        self.inner.is_stopped()
    }

    /// Whether the output may end here.
    pub fn may_end(&mut self) -> bool {
        self.inner.is_stopped() || self.inner.is_accepting().unwrap_or(false)
    }
}

/// Spaces like Python's `json.dumps`: what models were trained on, and no room to write spaces for ever.
pub(crate) fn spaced(mut schema: Value) -> Value {
    if let Value::Object(map) = &mut schema {
        map.entry("x-guidance")
            .or_insert_with(|| json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}));
    } else if schema == Value::Bool(true) {
        schema = spaced(json!({}));
    }
    schema
}

/// JSON nested deeper than this overflows the stack of what walks it. This walk itself does not recurse. Optional
/// properties all stand side by side in one row of the parser, so their number is bounded, too.
pub(crate) fn check_shape(value: &Value) -> Result<(), TextError> {
    let mut properties = 0;
    let mut waiting = vec![(value, 0usize)];
    while let Some((value, depth)) = waiting.pop() {
        if depth > MAX_DEPTH {
            return Err(TextError::TooLarge {
                what: "the depth of JSON in a schema or argument",
                got: depth,
                max: MAX_DEPTH,
            });
        }
        match value {
            Value::Array(list) => waiting.extend(list.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => {
                properties += map.get("properties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
                waiting.extend(map.values().map(|item| (item, depth + 1)));
            }
            _ => {}
        }
    }
    if properties > MAX_PROPERTIES {
        return Err(TextError::TooLarge {
            what: "the properties of a JSON schema",
            got: properties,
            max: MAX_PROPERTIES,
        });
    }
    Ok(())
}

/// Alternatives and references put the properties of many objects side by side, and a few lines can name very many. Recurses.
fn check_width(schema: &Value) -> Result<(), TextError> {
    let mut known = HashMap::new();
    let mut waiting = vec![schema];
    while let Some(value) = waiting.pop() {
        let got = width(schema, value, &mut known);
        if got > MAX_WIDTH {
            return Err(TextError::TooLarge {
                what: "the properties side by side in a JSON schema",
                got,
                max: MAX_WIDTH,
            });
        }
        match value {
            Value::Array(list) => waiting.extend(list),
            Value::Object(map) => waiting.extend(map.values()),
            _ => {}
        }
    }
    Ok(())
}

/// Properties that may come next where `value` begins.
fn width<'v>(root: &'v Value, value: &'v Value, known: &mut HashMap<*const Value, usize>) -> usize {
    let Value::Object(map) = value else { return 0 };
    if let Some(width) = known.get(&std::ptr::from_ref(value)) {
        return *width;
    }
    // A reference to itself adds nothing.
    known.insert(value, 0);
    let mut sum = map.get("properties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
    let lists = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| map.get(key)?.as_array()).flatten();
    let named = map.get("$ref").and_then(Value::as_str).and_then(|name| root.pointer(name.strip_prefix('#')?));
    for part in lists.chain(named) {
        sum = sum.saturating_add(width(root, part, known));
    }
    known.insert(value, sum);
    sum
}

struct Env {
    trie: TokTrie,
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        // So that the compiler forces no tokens; the model chooses among all spellings.
        false
    }
}

fn factory(tokenizer: &Tokenizer) -> Result<ParserFactory, TextError> {
    let fail = |reason: String| TextError::Grammar { what: "vocabulary", reason };
    let ends = tokenizer.eos_tokens();
    let Some(end) = ends.first().copied() else {
        return Err(fail("it has no end-of-sequence token".to_owned()));
    };
    let size = u32::try_from(tokenizer.vocab_size()).map_err(|_| fail("it is too large".to_owned()))?;
    let words: Vec<Vec<u8>> = (0..size).map(|token| trie_bytes(tokenizer, token)).collect();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(Env { trie });
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| fail(error.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.initial_lexer_fuel = 1_000_000;
        limits.max_grammar_size = 500_000;
        limits.max_lexer_states = 50_000;
        limits.verbose_errors = false;
        // What compiles can also be written: `MAX_PROPERTIES` side by side are some four items each.
        limits.max_items_in_row = MAX_ROW_ITEMS;
        Ok(factory)
    }))
    .unwrap_or_else(|_| Err(fail("its tokens are too many or too long for constrained decoding".to_owned())))
}

/// Control tokens, and added ones that look like markup, carry a byte that no text has: only a grammar that names
/// them lets them through.
fn trie_bytes(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(token);
    let markup = bytes.starts_with(b"<") && bytes.ends_with(b">") && bytes.len() > 2;
    match tokenizer.token_kind(token) {
        TokenKind::Unused => Vec::new(),
        _ if bytes.len() > MAX_TOKEN_BYTES => Vec::new(),
        TokenKind::Control => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
        TokenKind::Added if markup => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
        _ => bytes.to_vec(),
    }
}

fn reason(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").chars().take(300).collect()
}

fn constraint(text: &str) -> TextError {
    TextError::Constraint { reason: reason(text) }
}

const MAX_DEPTH: usize = 100;
const MAX_GRAMMAR_BYTES: usize = 512 << 10;
/// Compiling takes the square of them: 500 half a second, 4,000 some twenty.
const MAX_PROPERTIES: usize = 1_000;
/// Some four items of a row each.
const MAX_WIDTH: usize = 2_000;
/// Earley items of one position.
const MAX_ROW_ITEMS: usize = 10_000;
/// Address space; only what recursion touches becomes memory.
const STACK_BYTES: usize = 256 << 20;
/// The trie counts a token's depth in ten bits.
const MAX_TOKEN_BYTES: usize = 1000;
