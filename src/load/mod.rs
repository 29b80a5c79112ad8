//! The load generator: open loop at a rate, or closed loop with a window; percentiles that tell the truth.
//!
//! In an open loop the plan says when each request *should* leave, whatever the system does. Latency counts from
//! that moment, so a stall delays every request planned during it and shows in the percentiles ("coordinated
//! omission" is the mistake of not doing so: Gil Tene, "How NOT to Measure Latency"). The uncorrected latency, from
//! the moment of sending, is kept beside it: where the two differ, the generator itself was late.
//!
//! Nothing is repeated: every request ends as answered, busy, refused or lost.
//!
//! ```text
//! measure                    threads and sockets; from a Setup to a Report
//!    └─ run                  the loop of a thread: wait, receive, answers, sends, flush
//!         └─ generator       pure: which request leaves when (schedule, trace)
//!              ├─ protocol   pure: what it looks like, and which answer is whose
//!              └─ ledger     pure: which are open; how they ended, in all and by second
//! ```
//!
//! What works on finished reports knows nothing of all this: conditions on one ([`condition`]), many of them judged together
//! ([`search`], [`compare`], [`interval`]), and [`pages`].

pub mod compare;
pub mod condition;
mod counts;
#[cfg(test)]
mod fixtures;
mod generator;
pub mod histogram;
pub mod interval;
mod interval_log;
mod ledger;
mod measure;
mod merge;
pub mod pages;
mod protocol;
mod report;
mod run;
mod schedule;
pub mod search;
mod series;
mod trace;

pub use condition::{Conditions, Figures};
pub use counts::{Counts, Ending};
pub use generator::{Generator, LATE, Plan};
pub use histogram::{EncodedHistogram, Percentiles, SpectrumPoint};
pub use interval_log::write_interval_log;
pub use ledger::{Account, Ledger, SecondTally};
pub use measure::{Job, Load, MeasureError, ProtocolSpec};
pub use protocol::{Dns, Echo, Native, Payload, Plain, Protocol, Queries, type_from};
pub use report::{Histograms, Report, Second, SetUp, Verdict};
pub use run::Live;
pub use schedule::{Arrivals, Rate, Schedule, Share};
pub use series::write_csv;
pub use trace::Trace;
