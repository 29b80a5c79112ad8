//! `lbd` spreads UDP requests over a pool of servers by shortest queue.

pub mod batch;
pub mod config;
pub mod daemon;
pub mod drop_reason;
pub mod estimate;
pub mod fleet;
pub mod health;
pub mod io;
pub mod logging;
pub mod model;
pub mod retry;
pub mod rng;
pub mod role;
pub mod scale;
pub mod select;
pub mod service;
pub mod stats;
pub mod status;
pub mod sync;
pub mod time;
pub mod wire;
