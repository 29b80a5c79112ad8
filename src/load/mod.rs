//! The load generator: an open loop at a rate or a closed loop with a window, with correct percentiles.
//!
//! In an open loop, a schedule fixes when each request *should* leave, regardless of the responses.
//! Latency counts from that moment. A stall therefore delays every request scheduled during it and shows
//! in the percentiles. Measuring from the send instead is the error called "coordinated omission" (Gil
//! Tene, "How NOT to Measure Latency"). The report also has the uncorrected latency from the moment of
//! sending; where the two differ, the generator itself was late.
//!
//! The generator never repeats a request: each one ends as answered, busy, refused or lost.
//!
//! ```text
//! measure                    threads and sockets; from a Job to a Report
//!    └─ run                  the loop of a thread: wait, receive, responses, sends, flush
//!         └─ generator       pure: which request leaves when (schedule, trace)
//!              ├─ protocol   pure: the bytes of requests, and the matching of responses
//!              └─ ledger     pure: open requests, outcomes in total and by second
//! ```
//!
//! Code for finished reports does not depend on these modules: conditions on a report ([`condition`]),
//! several reports judged together ([`search`], [`compare`], [`interval`]), and [`pages`].

pub mod compare;
pub mod condition;
mod counts;
mod dns_answers;
#[cfg(test)]
mod fixtures;
mod generator;
pub mod histogram;
pub mod interval;
mod interval_log;
mod ledger;
mod measure;
mod merge;
mod network;
pub mod pages;
mod protocol;
mod report;
mod run;
mod schedule;
pub mod search;
mod series;
mod sources;
mod tolerance;
mod trace;

pub use condition::{BadCondition, Conditions, ReportMetrics};
pub use counts::{Counts, RequestEnd};
pub use dns_answers::{DnsAnswers, DnsCounts};
pub use generator::{Generator, GeneratorPlan};
pub use histogram::{EncodedHistogram, Percentiles, SpectrumPoint, write_hgrm};
pub use interval_log::write_interval_log;
pub use ledger::{Account, RequestLedger, SecondTally};
pub use measure::{Load, MeasureError, Measurement, ProtocolSpec, UNBOUNDED};
pub use network::{NetworkError, NetworkErrors};
pub use protocol::{
    DnsLoad, DnsQueries, Echo, LoadProtocol, Native, NativeSettings, Payload, Plain, type_from,
};
pub use report::{Histograms, LoadReport, RunVerdict, Second, SetUp, Silence};
pub use run::LiveCounts;
pub use schedule::{Arrivals, LoadRate, Schedule, Share};
pub use series::write_csv;
pub use sources::Sources;
pub use tolerance::Tolerance;
pub use trace::Trace;
