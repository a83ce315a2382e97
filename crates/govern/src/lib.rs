//! The gate of a site: every action passes it, and gets a permit or a denial that names the deciding policy and the remedy.
//!
//! [`World`] is what policies may read of tenants, artifacts and grants; [`Policies`] are validated against one schema; [`Gate`]
//! holds one of each and answers a [`Question`]. The only crate that knows Cedar. Start with `gate.rs`.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod by_id;
mod cache;
mod compiled;
mod entities;
mod error;
mod gate;
mod policies;
mod question;
mod record;
mod world;

pub use by_id::ById;
pub use error::Error;
pub use gate::{Answer, Decision, Denial, Epoch, Gate, Permit};
pub use policies::{Language, Policies, PolicyTexts, SCHEMA};
pub use question::{Action, Label, Question, Target};
pub use record::Record;
pub use world::{Actor, ActorKind, Artifact, Class, Destination, Grant, Organisation, ROLES, Site, Workspace, World};
