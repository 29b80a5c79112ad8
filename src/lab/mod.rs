//! The policy lab: the real roles under virtual time, with one trace of requests for every policy, and for the best that
//! any of them could do. Pure: no sockets, no clock; a seed replays a run to the last bit.
//!
//! ```text
//! Setup ──> Trace (when requests come, what each takes) ──┬──> World: balancers, network, servers ──> Figures
//!                                                         └──> ideal: one queue, or exact knowledge ──> Figures
//! ```
//!
//! What is real: balancers ([`crate::role::native`], [`crate::role::datagram`]), servers with their reports and counters
//! ([`crate::role::server`]), clients with their retries ([`crate::role::client`]), byte for byte. What is not: the network
//! (a delay, a jitter and a chance of loss for each datagram), the work (as long as the trace says), and time. Each event is
//! a turn of its own: batching is no part of it. Clients sit at the balancers: there is no way between.
//!
//! | file | a change there is about |
//! |---|---|
//! | `setup.rs` | what is simulated |
//! | `trace.rs`, `speeds.rs` | what comes when, and how fast who is |
//! | `ideal.rs` | what nobody can do better |
//! | `events.rs`, `links.rs`, `addresses.rs` | time, network, addresses |
//! | `world.rs` | who takes a turn when, and what it means |
//! | `machine.rs` | a server: one servant, one queue |
//! | `native.rs`, `datagram.rs` | the two kinds of pool |
//! | `lengths.rs`, `figures.rs` | true queues; what is counted |
//! | `study.rs`, `overload.rs` | many runs, compared |

mod addresses;
mod contender;
mod datagram;
mod events;
mod figures;
mod ideal;
mod lengths;
mod links;
mod machine;
mod native;
mod overload;
mod setup;
mod speeds;
mod study;
mod trace;
mod world;

pub use contender::{PolicyUnderTest, UnknownContender};
pub use figures::{Figures, Quantiles};
pub use ideal::{central_queue, exact_shortest_queue};
pub use overload::{Overload, Survival};
pub use setup::{PoolKind, SERVERS_OF_ONE_MAX, Setup};
pub use speeds::{BadSpeed, Group, Speeds, Spell};
pub use study::{Case, Compared, EXACT, InCase, Spread, Study, simulate};
pub use trace::{Request, Trace};
pub use world::NotReady;
