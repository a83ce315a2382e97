//! Through the public surface only.

mod kill;
mod seeds;
