//! What DNS responses say: their RCODE, and whether they are truncated or empty.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Names of the RCODEs of a header (IANA, DNS RCODEs), by number; those without a name have their number.
const RCODES: [&str; 16] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
    "RCODE12",
    "RCODE13",
    "RCODE14",
    "RCODE15",
];
/// The first RCODEs, of RFC 1035, are told even if no response has them.
const ALWAYS: usize = 6;

/// Responses to the queries of a measurement, while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsCounts {
    rcodes: [u64; RCODES.len()],
    truncated: u64,
    empty: u64,
}

impl DnsCounts {
    /// Counts a response: its RCODE below 16, whether it has TC, and whether it is NOERROR without an answer.
    pub fn add(&mut self, rcode: u8, is_truncated: bool, is_empty: bool) {
        self.rcodes[usize::from(rcode) % RCODES.len()] += 1;
        self.truncated += u64::from(is_truncated);
        self.empty += u64::from(is_empty);
    }
}

/// Responses to the queries of a measurement. Late and repeated ones are not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAnswers {
    /// Responses by RCODE, by its name.
    pub rcodes: BTreeMap<String, u64>,
    /// Responses with TC, which ask for TCP.
    pub truncated: u64,
    /// Responses with NOERROR and without an answer, truncated ones excluded.
    pub empty: u64,
}

impl DnsAnswers {
    /// Responses with this RCODE, 0 to 15.
    pub fn rcode(&self, rcode: u8) -> u64 {
        RCODES.get(usize::from(rcode)).and_then(|name| self.rcodes.get(*name)).copied().unwrap_or(0)
    }
}

impl From<DnsCounts> for DnsAnswers {
    fn from(counts: DnsCounts) -> DnsAnswers {
        let all = RCODES.into_iter().zip(counts.rcodes).enumerate();
        let told = all.filter(|(rcode, (_, count))| *rcode < ALWAYS || *count > 0);
        DnsAnswers {
            rcodes: told.map(|(_, (name, count))| (name.to_owned(), count)).collect(),
            truncated: counts.truncated,
            empty: counts.empty,
        }
    }
}

impl AddAssign<&DnsAnswers> for DnsAnswers {
    fn add_assign(&mut self, other: &DnsAnswers) {
        for (name, count) in &other.rcodes {
            *self.rcodes.entry(name.clone()).or_default() += count;
        }
        self.truncated += other.truncated;
        self.empty += other.empty;
    }
}

impl fmt::Display for DnsAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rcodes: Vec<String> = self.rcodes.iter().map(|(name, count)| format!("{count} {name}")).collect();
        write!(f, "by rcode: {}; {} truncated, {} empty", rcodes.join(", "), self.truncated, self.empty)
    }
}
