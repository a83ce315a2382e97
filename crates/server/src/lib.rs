//! The HTTP surface: routes, authentication, errors, streams, limits and metrics over the engine.
//! Wire types come from `protocol` and are converted once; text goes through `text`; tokens through `engine`.
//! Start at [`App`]; the table of routes is in `routes.rs`; every error becomes HTTP in `error.rs`.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod app;
mod attached;
mod auth;
mod body;
mod clock;
mod convert;
mod edge;
mod energy;
mod error;
mod generate;
mod governance;
mod health;
mod ids;
mod jobs;
mod limits;
mod metrics;
mod moment;
mod openapi;
mod operations;
mod registry;
mod routes;
mod serve;
mod sign_in;
mod site;
mod sse;

pub use app::{App, Settings};
pub use attached::{AttachError, AttachedEngine};
pub use auth::Key;
pub use error::ApiError;
pub use governance::{Book, Governance, GovernanceError, SiteFacts, origin};
pub use jobs::JobSettings;
pub use registry::{Facts, Identity, Listed, LoadError, Loader, Loan, Memory, ModelState, Registry, Served};
pub use serve::serve;
pub use sign_in::{SignInError, SignInSettings};
pub use site::Site;
