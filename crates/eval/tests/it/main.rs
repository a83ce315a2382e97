//! Suites through a tiny seeded model: reading them, asking everything, stopping and going on, adding up and comparing.

mod models;
mod runs;
mod seeds;
mod suites;
