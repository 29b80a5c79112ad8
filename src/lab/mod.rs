//! The policy simulator: the real roles in virtual time. All policies get the same trace of requests,
//! and so do two ideal references. Pure: no sockets, no clock; a seed reproduces a run to the last bit.
//!
//! ```text
//! Setup ──> Trace (arrivals and service times) ──┬──> World: balancers, network, servers ──> Figures
//!                                                └──> ideal: one queue, or exact knowledge ──> Figures
//! ```
//!
//! Real are the balancers ([`crate::role::native`], [`crate::role::datagram`]), the servers with their
//! reports and counters ([`crate::role::server`]) and the clients with their retries
//! ([`crate::role::client`]), byte for byte. Simulated are the network (delay, jitter and loss of each
//! datagram), the service times (from the trace), and time. Each event is a turn of its own, so batching
//! is not simulated. Clients have no delay to their balancer.
//!
//! | file | content |
//! |---|---|
//! | `setup.rs` | the simulated system |
//! | `trace.rs`, `work.rs`, `speeds.rs` | arrivals and work of requests, speeds of servers |
//! | `ideal.rs` | ideal references |
//! | `links.rs`, `addresses.rs` | network, addresses |
//! | `world.rs` | order of the turns, and their effect on queues and requests |
//! | `machine.rs` | a server machine with its queue |
//! | `native.rs`, `datagram.rs` | the two kinds of pool |
//! | `lengths.rs`, `outcome.rs`, `figures.rs` | true queues, counters and results |
//! | `steady.rs`, `interval.rs` | length and warm-up of runs, uncertainty of figures |
//! | `study.rs`, `overload.rs` | comparisons of many runs |

mod addresses;
mod contender;
mod datagram;
mod figures;
mod ideal;
mod interval;
mod lengths;
mod links;
mod machine;
mod native;
mod outcome;
mod overload;
mod setup;
mod speeds;
mod steady;
mod study;
mod trace;
mod work;
mod world;

pub use contender::{PolicyUnderTest, UnknownContender};
pub use figures::{Figures, Quantiles};
pub use ideal::{central_queue, exact_shortest_queue};
pub use interval::Interval;
pub use overload::{Overload, Survival};
pub use setup::{PoolKind, SERVERS_OF_ONE_MAX, Setup};
pub use speeds::{BadSpeed, Group, Speeds, Spell};
pub use study::{Case, Compared, EXACT, InCase, Intervals, Spread, Study, simulate};
pub use trace::{RequestTrace, TracedRequest};
pub use work::{Gaps, Listed, Work};
pub use world::NotReady;
