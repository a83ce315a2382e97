//! What work takes from the socket, with a grade that says how well that is known, and what it is in CO2.
//! Reads counters; knows no request, no tenant and no HTTP. Start at [`Site`], which prices the CPU time of a server's requests, and
//! at [`Own`], which follows one process; `docs/energy.md` has the formulae and their limits.
#![forbid(unsafe_code)]

mod charge;
mod co2;
mod counter;
mod cpu;
mod gpus;
mod own;
mod rapl;
mod site;
mod source;

pub use charge::{Charge, Grade, Method};
pub use co2::{Area, Carbon};
pub use own::{Own, Taken};
pub use site::{Site, State};
pub use source::{Absent, Findings, Settings, Tdp};
