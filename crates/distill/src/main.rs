//! The command line: `distill`.

fn main() {}
