//! The falaj binary.

fn main() {}
