//! Charts as SVG text: lines over a number ([`Chart`]) and horizontal bars ([`Bars`]). One self-contained file each, readable on
//! light and dark ground (`prefers-color-scheme`), in Arabic as in English: every text has its own direction. No fonts,
//! scripts or colours to choose. Start at `chart.rs`; what both share is in `canvas.rs`, the round numbers in `axis.rs`.
#![forbid(unsafe_code)]

mod axis;
mod bars;
mod canvas;
mod chart;

pub use axis::Axis;
pub use bars::{Bars, Row};
pub use chart::{Chart, Series, Style, smooth};
