//! Tests of the trainer through its public API: gradients against finite differences in f64, exact equalities, logits against the
//! decoder that serves.

mod equalities;
mod exports;
mod golden;
mod gradients;
mod jobs;
mod learning;
mod lora;
mod mixture;
mod pytorch;
mod reading;
mod recipes;
mod reference;
mod seeds;
mod serving;
mod small;
