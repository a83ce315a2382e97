//! The real executable, as people and programs use it. `site.rs` runs it in a folder of its own; `stand_in.rs` is a model
//! hub on the loopback.

mod adapters;
mod chat;
mod config;
mod data;
mod drafts;
mod eval;
mod models;
mod policy;
mod pull;
mod run;
mod site;
mod stand_in;
mod train;
mod up;
