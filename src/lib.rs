//! `lbd` spreads UDP requests over a pool of servers by shortest queue.

pub mod batch;
pub mod drop_reason;
pub mod estimate;
pub mod health;
pub mod io;
pub mod model;
pub mod scale;
pub mod stats;
pub mod sync;
pub mod time;
pub mod wire;
