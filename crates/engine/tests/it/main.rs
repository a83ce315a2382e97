//! The engine through its public API, with tiny seeded models: that a request's tokens depend on nothing but itself, and
//! that whatever happens to it, it ends and gives its pages back.

mod adapters;
mod allocations;
mod choices;
mod constraint;
mod cost;
mod embedding;
mod invariance;
mod limits;
mod prefixes;
mod run;
mod scores;
mod speculation;
mod storm;
mod windows;
