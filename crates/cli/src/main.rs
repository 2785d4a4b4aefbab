//! The program `kvant`.
fn main() {}
