//! Through the public surface only.

mod kill;
