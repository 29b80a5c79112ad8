//! Plain data and atomics that know no pool, no socket and no frame.

pub mod batch;
pub mod drop_reason;
pub mod duration;
pub mod events;
pub mod lru_slab;
pub mod rng;
pub mod seldom;
pub mod service_time;
pub mod sync;
pub mod time;
