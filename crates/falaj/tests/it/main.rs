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
mod places;
mod policy;
mod pull;
mod run;
#[path = "../../../store/tests/it/s3.rs"]
#[expect(dead_code, reason = "the store's own tests ask it for more")]
mod s3;
mod site;
mod stand_in;
mod token;
mod train;
mod tutorial;
mod up;
mod witness;
