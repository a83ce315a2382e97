//! protocol through its public API.

mod seeds;
