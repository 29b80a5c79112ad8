//! Which server processes should run, and how many. Pure: starts nothing.

pub mod pool;
pub mod servers;
