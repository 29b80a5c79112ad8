//! The load generator: open loop at a rate, or closed loop with a window; percentiles that tell the truth.
//!
//! In an open loop the plan says when each request *should* leave, whatever the system does. Latency counts from
//! that moment, so a stall delays every request planned during it and shows in the percentiles ("coordinated
//! omission" is the mistake of not doing so: Gil Tene, "How NOT to Measure Latency"). The uncorrected latency, from
//! the moment of sending, is kept beside it: where the two differ, the generator itself was late.
//!
//! Nothing is repeated: every request ends as answered, busy, refused or lost.

mod generator;
mod report;
mod run;
mod schedule;

pub use generator::{Generator, LATE, Plan};
pub use report::{Percentiles, Report, Verdict};
pub use run::{Live, Progress, run};
pub use schedule::{Arrivals, Schedule};
