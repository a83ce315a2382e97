//! Tests of loading and of the forward pass through the public API: against PyTorch's logits, between formats, and with
//! files that lie.

mod adapter;
mod formats;
mod golden;
mod hostile;
mod invariance;
mod packed;
mod run;
mod seeds;
