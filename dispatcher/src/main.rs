//! The dispatcher program.

fn main() {}
