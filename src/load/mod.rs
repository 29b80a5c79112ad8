//! The load generator: open loop at a rate, or closed loop with a window; percentiles that tell the truth.
//!
//! In an open loop the plan says when each request *should* leave, whatever the system does. Latency counts from
//! that moment, so a stall delays every request planned during it and shows in the percentiles ("coordinated
//! omission" is the mistake of not doing so: Gil Tene, "How NOT to Measure Latency"). The uncorrected latency, from
//! the moment of sending, is kept beside it: where the two differ, the generator itself was late.
//!
//! Nothing is repeated: every request ends as answered, busy, refused or lost.

pub mod compare;
pub mod condition;
mod generator;
pub mod histogram;
pub mod interval;
#[cfg(test)]
mod made;
mod report;
mod run;
mod schedule;
pub mod search;

pub use condition::{Conditions, Figures};
pub use generator::{Generator, LATE, Plan};
pub use histogram::{EncodedHistogram, Percentiles, SpectrumPoint};
pub use report::{Histograms, Report, Second, SetUp, Verdict};
pub use run::{Live, Progress, run};
pub use schedule::{Arrivals, Schedule};
