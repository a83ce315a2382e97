//! The real executable, as people and programs use it. `site.rs` runs it in a folder of its own; `stand_in.rs` is a model
//! hub on the loopback.

mod adapters;
mod admin;
mod chat;
mod config;
mod crash;
mod data;
mod drafts;
mod engine;
mod eval;
mod faults;
mod ledger;
mod models;
mod policy;
mod pull;
mod run;
mod site;
mod stand_in;
mod token;
mod train;
mod tutorial;
mod up;
mod witness;
