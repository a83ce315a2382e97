//! Runs a template within a budget. minijinja counts instructions, but one instruction can double a string, so forty
//! can fill any memory. Here every instruction that makes or walks something large is replaced by a call of a function
//! that pays for it first. Compilation is bounded too: the compiler folds constants and recurses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, Vm, WhitespaceConfig, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};

use super::names::{FILTERS, TESTS};
use super::python::{python_repr, python_str};

/// What one rendering may still do.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Accounts>);

#[derive(Debug)]
struct Accounts {
    made_bytes: AtomicI64,
    seen_bytes: AtomicI64,
}

impl Budget {
    pub fn new() -> Self {
        Self(Arc::new(Accounts { made_bytes: AtomicI64::new(MADE_BYTES), seen_bytes: AtomicI64::new(SEEN_BYTES) }))
    }

    /// Pays for text or lists that are about to exist.
    fn make(&self, bytes: usize) -> Result<(), Error> {
        pay(&self.0.made_bytes, bytes)
    }

    /// Pays for looking at something.
    fn look(&self, bytes: usize) -> Result<(), Error> {
        pay(&self.0.seen_bytes, bytes)
    }
}

fn pay(account: &AtomicI64, bytes: usize) -> Result<(), Error> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_add(1);
    if account.fetch_sub(bytes, Ordering::Relaxed) < bytes {
        // Stays spent: the next payment fails too.
        account.store(0, Ordering::Relaxed);
        return Err(refuse("it does too much work"));
    }
    Ok(())
}

/// Text that is paid for as it is written.
pub(super) struct Paying<'a> {
    pub out: &'a mut dyn fmt::Write,
    pub budget: &'a Budget,
}

impl fmt::Write for Paying<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.budget.make(text.len()).map_err(|_| fmt::Error)?;
        self.out.write_str(text)
    }
}

/// Renders `source` with `context` as its variables.
pub(super) fn run((main, blocks): &Compiled, environment: &Environment, context: Value) -> Result<String, Error> {
    let mut text = String::new();
    // Macros called after the end of the template would need its state; nothing does.
    Vm::new(environment).eval(
        main,
        context,
        blocks,
        &mut minijinja::machinery::make_string_output(&mut text),
        AutoEscape::None,
    )?;
    Ok(text)
}

/// A template's main program, and those of its blocks.
pub(super) type Compiled<'a> = (Instructions<'a>, BTreeMap<&'a str, Instructions<'a>>);

pub(super) fn compile(source: &str) -> Result<Compiled<'_>, Error> {
    let spaces = WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
    check_tokens(source, spaces)?;
    let ast = parse(source, NAME, SyntaxConfig, spaces)?;
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&ast);
    let (main, blocks) = generator.finish();
    let blocks = blocks.into_iter().map(|(name, block)| Ok((name, guarded(&block, source)?)));
    Ok((guarded(&main, source)?, blocks.collect::<Result<_, Error>>()?))
}

/// Bounds how deep and how wide an expression can be, before anything recurses into it or folds it.
fn check_tokens(source: &str, spaces: WhitespaceConfig) -> Result<(), Error> {
    let (mut length, mut times, mut largest, mut literal, mut branches) = (0usize, 0usize, 0u64, false, 0usize);
    for token in tokenize(source, false, SyntaxConfig, spaces) {
        let (token, _) = token?;
        match token {
            Token::VariableStart | Token::BlockStart => (length, times, largest, literal) = (0, 0, 0, false),
            Token::Mul | Token::Pow => times += 1,
            Token::Int(value) => largest = largest.max(value),
            Token::Int128(_) => largest = u64::MAX,
            Token::Str(_) | Token::String(_) | Token::BracketOpen => literal = true,
            Token::Ident("elif") => branches += 1,
            _ => {}
        }
        length += 1;
        if length > MAX_EXPRESSION_TOKENS || branches > MAX_BRANCHES {
            return Err(refuse("one of its expressions or conditions is too long"));
        }
        if literal && (times > 1 || (times == 1 && largest > MAX_REPEAT)) {
            return Err(refuse("it repeats a constant too often"));
        }
    }
    Ok(())
}

/// The same program with payments in it.
fn guarded<'a>(program: &Instructions<'a>, source: &'a str) -> Result<Instructions<'a>, Error> {
    use Instruction as I;
    let count = u32::try_from(program.len()).map_err(|_| refuse("it is too long"))?;
    let mut parts: Vec<Vec<Instruction<'a>>> = Vec::with_capacity(program.len());
    for at in 0..count {
        let Some(instruction) = program.get(at) else { break };
        let call = |name: &'static str, arguments: u16| vec![I::CallFunction(name, Some(arguments))];
        parts.push(match instruction {
            I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
            I::Add => call("+", 2),
            I::Mul => call("*", 2),
            I::StringConcat => call("~", 2),
            I::Slice => call("[:]", 4),
            I::Eq => call("==", 2),
            I::Ne => call("!=", 2),
            I::Lt => call("<", 2),
            I::Lte => call("<=", 2),
            I::Gt => call(">", 2),
            I::Gte => call(">=", 2),
            I::In => call("in", 2),
            I::CompareAndPreserve(_) => {
                vec![I::DupTop, I::CallFunction(CHECK, Some(1)), I::DiscardTop, instruction.clone()]
            }
            I::BuildList(_) | I::BuildMap(_) | I::BuildKwargs(_) | I::MergeKwargs(_) => {
                vec![instruction.clone(), I::DupTop, I::CallFunction(CHECK, Some(1)), I::DiscardTop]
            }
            I::ApplyFilter(name, arguments, _) => vec![I::CallFunction(known(&FILTERS, name, "filter")?, *arguments)],
            I::PerformTest(name, arguments, _) => vec![I::CallFunction(known(&TESTS, name, "test")?, *arguments)],
            I::Include(_) | I::LoadBlocks | I::ExportLocals => return Err(refuse("it includes other templates")),
            other => vec![other.clone()],
        });
    }
    let mut place = Vec::with_capacity(parts.len() + 1);
    let mut next = 0u32;
    for part in &parts {
        place.push(next);
        next = next.saturating_add(u32::try_from(part.len()).unwrap_or(u32::MAX));
    }
    place.push(next);
    let moved = |target: &u32| place.get(*target as usize).copied().unwrap_or(next);
    let mut out = Instructions::new(NAME, source);
    for (at, part) in (0u32..).zip(parts) {
        let line = program.get_line(at).and_then(|line| u16::try_from(line).ok()).unwrap_or(0);
        for instruction in part {
            let instruction = match &instruction {
                I::Iterate(to) => I::Iterate(moved(to)),
                I::Jump(to) => I::Jump(moved(to)),
                I::JumpIfFalse(to) => I::JumpIfFalse(moved(to)),
                I::JumpIfFalseOrPop(to) => I::JumpIfFalseOrPop(moved(to)),
                I::JumpIfTrueOrPop(to) => I::JumpIfTrueOrPop(moved(to)),
                I::BuildMacro(name, to, flags) => I::BuildMacro(name, moved(to), *flags),
                _ => instruction,
            };
            out.add_with_line(instruction, line);
        }
    }
    Ok(out)
}

/// The guarded function behind a filter or test. Their names are no identifiers, so no template can replace them.
fn known(table: &[(&'static str, &'static str)], name: &str, what: &str) -> Result<&'static str, Error> {
    let plain: String = name.split_whitespace().collect();
    let found = table.iter().find(|(known, _)| *known == plain);
    found.map(|(_, function)| *function).ok_or_else(|| {
        let name: String = name.chars().take(40).collect();
        refuse(&format!("the {what} `{name}` is unknown here"))
    })
}

/// Adds the functions that guarded programs call.
pub(super) fn install(environment: &mut Environment, budget: &Budget) {
    // Reachable by name through `map`, and able to make much of little.
    for name in ["batch", "chain", "format", "pprint", "slice", "urlencode", "zip"] {
        environment.remove_filter(name);
    }
    macro_rules! binary {
        ($name:literal, $operation:expr) => {
            let paid = budget.clone();
            environment
                .add_function($name, move |a: Value, b: Value| -> Result<Value, Error> { $operation(&paid, a, b) });
        };
    }
    binary!("+", add);
    binary!("*", multiply);
    binary!("~", |budget: &Budget, a, b| {
        let mut text = String::new();
        let mut out = Paying { out: &mut text, budget };
        python_str(&mut out, &a)
            .and_then(|()| python_str(&mut out, &b))
            .map_err(|_| refuse("it makes too much text"))?;
        Ok(Value::from(text))
    });
    macro_rules! comparison {
        ($name:literal, $compare:expr) => {
            binary!($name, |budget: &Budget, a: Value, b: Value| {
                deep(budget, &a)?;
                deep(budget, &b)?;
                Ok(Value::from($compare(&a, &b)))
            });
        };
    }
    comparison!("==", |a, b| a == b);
    comparison!("!=", |a, b| a != b);
    comparison!("<", |a, b| a < b);
    comparison!("<=", |a, b| a <= b);
    comparison!(">", |a, b| a > b);
    comparison!(">=", |a, b| a >= b);
    let paid = budget.clone();
    environment.add_function("in", move |state: &State, item: Value, container: Value| {
        deep(&paid, &item)?;
        deep(&paid, &container)?;
        state.perform_test("in", &[item, container]).map(Value::from)
    });
    let paid = budget.clone();
    environment.add_function("[:]", move |base: Value, start: Value, stop: Value, step: Value| {
        slice(&paid, &base, &start, &stop, &step)
    });
    let paid = budget.clone();
    environment.add_function(CHECK, move |value: Value| shape(&paid, &value).map(|()| Value::UNDEFINED));
    for (name, function) in FILTERS {
        let paid = budget.clone();
        environment.add_function(function, move |state: &State, arguments: Rest<Value>| {
            filter(&paid, state, name, &arguments)
        });
    }
    for (name, function) in TESTS {
        let paid = budget.clone();
        environment.add_function(function, move |state: &State, arguments: Rest<Value>| {
            if arguments.len() > 1 {
                arguments.iter().try_for_each(|argument| deep(&paid, argument))?;
            }
            state.perform_test(name, &arguments).map(Value::from)
        });
    }
    let paid = budget.clone();
    environment.set_unknown_method_callback(move |state, value, method, arguments| {
        shallow(&paid, value)?;
        arguments.iter().try_for_each(|argument| shallow(&paid, argument))?;
        match (method, value.as_str(), arguments) {
            ("replace", Some(text), [old, new, ..]) => grown(&paid, text, old, new)?,
            ("join", Some(_), [list]) => return join(&paid, value, list),
            ("format", Some(_), _) => return Err(refuse("the method `format` is unknown here")),
            _ => {}
        }
        let result = minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)?;
        made(&paid, &result)?;
        Ok(result)
    });
}

fn filter(budget: &Budget, state: &State, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    match name {
        // What they return was there before, or is small.
        "attr" | "bool" | "count" | "d" | "default" | "first" | "float" | "int" | "last" | "length" => {
            return state.apply_filter(name, arguments);
        }
        "dictsort" | "groupby" | "max" | "min" | "sort" | "sum" | "tojson" | "unique" => {
            arguments.iter().try_for_each(|argument| deep(budget, argument))?;
        }
        "map" | "select" | "selectattr" | "reject" | "rejectattr" => {
            let grows = |name: &str| ["replace", "indent", "join", "list", "string", "tojson"].contains(&name);
            if arguments.get(1).and_then(Value::as_str).is_some_and(grows) {
                return Err(refuse(&format!("it maps over a filter that `{name}` can't use here")));
            }
            arguments.iter().try_for_each(|argument| shallow(budget, argument))?;
        }
        _ => arguments.iter().try_for_each(|argument| shallow(budget, argument))?,
    }
    match (name, arguments) {
        ("replace", [text, old, new, ..]) => grown(budget, text.as_str().unwrap_or(""), old, new)?,
        ("join", [list]) => return join(budget, &Value::from(""), list),
        ("join", [list, separator]) if separator.as_str().is_some() => return join(budget, separator, list),
        ("string", [value]) => {
            let mut text = String::new();
            python_str(&mut Paying { out: &mut text, budget }, value).map_err(|_| refuse("it makes too much text"))?;
            return Ok(Value::from(text));
        }
        ("indent", [text, ..]) => {
            let lines = text.as_str().map_or(0, |text| text.lines().count());
            let width = arguments.get(1).and_then(Value::as_usize).unwrap_or(4);
            budget.make(lines.saturating_mul(width))?;
        }
        _ => {}
    }
    let result = state.apply_filter(name, arguments)?;
    made(budget, &result)?;
    Ok(result)
}

/// Pays for a replacement before it is made.
fn grown(budget: &Budget, text: &str, old: &Value, new: &Value) -> Result<(), Error> {
    let (old, new) = (old.as_str().unwrap_or(""), new.as_str().unwrap_or(""));
    budget.make(text.matches(old).count().saturating_mul(new.len()))
}

fn join(budget: &Budget, separator: &Value, list: &Value) -> Result<Value, Error> {
    let mut text = String::new();
    let mut out = Paying { out: &mut text, budget };
    for (at, item) in list.try_iter()?.enumerate() {
        let piece = if at > 0 { python_str(&mut out, separator) } else { Ok(()) };
        piece.and_then(|()| python_str(&mut out, &item)).map_err(|_| refuse("it makes too much text"))?;
    }
    Ok(Value::from(text))
}

/// Pays for looking at the top of a value.
fn shallow(budget: &Budget, value: &Value) -> Result<(), Error> {
    budget.look(top_bytes(value))
}

/// Pays for a value that a call has made.
fn made(budget: &Budget, value: &Value) -> Result<(), Error> {
    budget.make(top_bytes(value))
}

fn top_bytes(value: &Value) -> usize {
    value.as_str().map_or_else(|| value.len().unwrap_or(1).saturating_mul(NODE_BYTES), str::len)
}

/// Refuses a value that is too deep or too wide for what recurses into it.
fn shape(budget: &Budget, value: &Value) -> Result<(), Error> {
    walk(budget, value, 0, &mut 0, false)
}

/// Pays for looking at all of a value.
fn deep(budget: &Budget, value: &Value) -> Result<(), Error> {
    walk(budget, value, 0, &mut 0, true)
}

fn walk(budget: &Budget, value: &Value, depth: usize, nodes: &mut usize, texts: bool) -> Result<(), Error> {
    *nodes += 1;
    if depth > MAX_DEPTH || *nodes > MAX_NODES {
        return Err(refuse("it builds a value that is too deep or too large"));
    }
    budget.look(value.as_str().filter(|_| texts).map_or(NODE_BYTES, str::len))?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.try_for_each(|item| walk(budget, &item, depth + 1, nodes, texts))
        }
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            walk(budget, &key, depth + 1, nodes, texts)?;
            walk(budget, &value.get_item(&key)?, depth + 1, nodes, texts)
        }),
        _ => Ok(()),
    }
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn integer(value: &Value) -> Option<i128> {
    value.is_integer().then(|| i128::try_from(value.clone()).ok()).flatten()
}

fn float(value: &Value) -> Option<f64> {
    value.is_number().then(|| f64::try_from(value.clone()).ok()).flatten()
}

fn add(budget: &Budget, a: Value, b: Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (a.as_str(), b.as_str()) {
        budget.make(left.len() + right.len())?;
        return Ok(Value::from([left, right].concat()));
    }
    if is_list(&a) && is_list(&b) {
        let mut items = Vec::new();
        for item in a.try_iter()?.chain(b.try_iter()?) {
            budget.make(NODE_BYTES)?;
            items.push(item);
        }
        return Ok(Value::from(items));
    }
    if let (Some(left), Some(right)) = (integer(&a), integer(&b)) {
        return left.checked_add(right).map(Value::from).ok_or_else(|| operation("+", &a, &b));
    }
    match (float(&a), float(&b)) {
        (Some(left), Some(right)) => Ok(Value::from(left + right)),
        _ => Err(operation("+", &a, &b)),
    }
}

fn multiply(budget: &Budget, a: Value, b: Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (integer(&a), integer(&b)) {
        return left.checked_mul(right).map(Value::from).ok_or_else(|| operation("*", &a, &b));
    }
    if let (Some(left), Some(right)) = (float(&a), float(&b)) {
        return Ok(Value::from(left * right));
    }
    let (repeated, times) = if integer(&b).is_some() { (&a, &b) } else { (&b, &a) };
    let times = integer(times).map(|times| usize::try_from(times).unwrap_or(if times < 0 { 0 } else { usize::MAX }));
    match (repeated.as_str(), times) {
        (Some(text), Some(times)) => {
            budget.make(text.len().saturating_mul(times))?;
            Ok(Value::from(text.repeat(times)))
        }
        (None, Some(times)) if is_list(repeated) => {
            let items: Vec<Value> = repeated.try_iter()?.collect();
            budget.make(items.len().saturating_mul(times).saturating_mul(NODE_BYTES))?;
            let times = if items.is_empty() { 0 } else { times };
            Ok(Value::from(std::iter::repeat_n(items, times).flatten().collect::<Vec<_>>()))
        }
        _ => Err(operation("*", &a, &b)),
    }
}

/// `base[start:stop:step]` as in Python.
fn slice(budget: &Budget, base: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    budget.make(top_bytes(base))?;
    let bound = |value: &Value| -> Result<Option<i64>, Error> {
        if value.is_none() || value.is_undefined() {
            return Ok(None);
        }
        value.as_i64().map(Some).ok_or_else(|| refuse("it slices with something that is no integer"))
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return Err(refuse("it slices in steps of zero"));
    }
    let pick = |count: usize| -> Vec<usize> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let (low, high) = if step > 0 { (0, count) } else { (-1, count - 1) };
        let place = |at: i64| if at < 0 { at.saturating_add(count).max(low) } else { at.min(high) };
        let (mut at, end) = if step > 0 {
            (start.map_or(0, place), stop.map_or(count, place))
        } else {
            (start.map_or(count - 1, place), stop.map_or(-1, place))
        };
        let mut places = Vec::new();
        while (step > 0 && at < end) || (step < 0 && at > end) {
            places.extend(usize::try_from(at));
            at = at.saturating_add(step);
        }
        places
    };
    if let Some(text) = base.as_str() {
        let characters: Vec<char> = text.chars().collect();
        return Ok(pick(characters.len()).into_iter().filter_map(|at| characters.get(at)).collect::<String>().into());
    }
    if is_list(base) {
        let items: Vec<Value> = base.try_iter()?.collect();
        return Ok(pick(items.len()).into_iter().filter_map(|at| items.get(at).cloned()).collect::<Vec<_>>().into());
    }
    if base.is_none() || base.is_undefined() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    Err(refuse(&format!("it slices {}", base.kind())))
}

fn operation(sign: &str, a: &Value, b: &Value) -> Error {
    let mut text = String::new();
    // For the message only; whatever does not fit is left out.
    let _ = python_repr(&mut text, &Value::from(format!("{} {sign} {}", a.kind(), b.kind())), 0);
    refuse(&format!("it can't do {text}"))
}

pub(super) fn refuse(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_owned())
}

const NAME: &str = "chat template";
const CHECK: &str = "?";

/// Bytes of text and lists made in one rendering; many times the longest context.
const MADE_BYTES: i64 = 256 << 20;
/// Bytes looked at; about a second.
const SEEN_BYTES: i64 = 1 << 30;
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 200_000;
const NODE_BYTES: usize = 16;
const MAX_EXPRESSION_TOKENS: usize = 1000;
const MAX_BRANCHES: usize = 300;
const MAX_REPEAT: u64 = 256;
