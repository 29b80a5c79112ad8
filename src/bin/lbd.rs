//! The daemons.
fn main() {}
