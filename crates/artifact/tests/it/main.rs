//! artifact through its public API. `samples` makes good files with the crate's writers; everything hostile is a mutation of
//! one of those.

mod catalog;
mod digest;
mod gguf;
mod hostile;
mod layout;
mod memory;
mod mutations;
mod safetensors;
mod samples;
mod seeds;
mod sharded;
