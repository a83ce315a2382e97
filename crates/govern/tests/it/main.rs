//! The gate through its public surface: who may do what, and what those are told who may not.

mod decisions;
mod records;
mod site_policies;
mod world;
