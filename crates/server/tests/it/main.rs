//! The HTTP API through the router (or a loopback socket where connections matter), over a tiny seeded model.

mod adapters;
mod anthropic;
mod attached;
mod chat;
mod completions;
mod energy;
mod errors;
mod fine_tuning;
mod fixture;
mod governance;
mod limits;
mod memory;
mod models;
mod people;
mod sockets;
mod tenants;
mod tools;
