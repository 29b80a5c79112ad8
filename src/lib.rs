//! `lbd` spreads UDP requests over a pool of servers by shortest queue.

pub mod sync;
