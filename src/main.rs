//! Exit codes and the printed error chain.

fn main() {}
