//! The mechanism of a pool of servers, for every kind of pool: members, selection, health, queueing, scaling
//! and counters. Pure: no frame, datagram, socket or clock.

pub mod access;
pub mod autoscale;
pub mod concurrency;
pub mod departed;
pub mod desired;
pub mod event;
pub mod health;
pub mod lanes;
pub mod local_addresses;
pub mod members;
pub mod order;
pub mod outlier;
pub mod outstanding;
pub mod part;
pub mod primary;
pub mod registry;
pub mod regret;
pub mod select;
pub mod selector;
pub mod shared;
pub mod silence;
pub mod slow_start;
pub mod slowness;
pub mod stall;
pub mod stats;
pub mod waiting;
