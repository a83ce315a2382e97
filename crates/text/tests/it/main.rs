//! Whole-crate tests: golden vectors of other implementations, templates, tool calls, grammars, hostile files.

mod chat;
mod conversion;
mod golden;
mod grammar;
mod hostile;
mod learn;
mod lesson;
mod output;
mod seed;
mod seeds;
mod support;
