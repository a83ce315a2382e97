//! The HTTP API through the router (or a loopback socket where connections matter), over a tiny seeded model.

mod adapters;
mod anthropic;
mod chat;
mod completions;
mod errors;
mod fine_tuning;
mod fixture;
mod limits;
mod memory;
mod models;
mod sockets;
mod tools;
