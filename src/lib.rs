//! `lbd` spreads UDP requests over a pool of servers by shortest queue.

pub mod batch;
pub mod drop_reason;
pub mod io;
pub mod model;
pub mod rng;
pub mod sync;
pub mod time;
pub mod wire;
