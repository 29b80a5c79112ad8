//! Policies under test: a policy with or without a concurrency limit.

use std::str::FromStr;

use crate::pool::select::PolicyKind;
use crate::pool::waiting::Limit;

/// A policy and its concurrency limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyUnderTest {
    /// The policy that selects servers.
    pub policy: PolicyKind,
    /// Maximum outstanding requests per server; excess requests queue in the balancer.
    pub max_outstanding: Option<Limit>,
}

/// Prefix of the shortest queue with a concurrency limit: `bounded:1`, `bounded:auto`.
const BOUNDED: &str = "bounded:";

impl PolicyUnderTest {
    /// All policies, and the limits worth comparing.
    pub fn all() -> Vec<PolicyUnderTest> {
        let unbounded = |policy| PolicyUnderTest { policy, max_outstanding: None };
        let bounds = [Limit::Fixed(1), Limit::Fixed(2), Limit::Auto];
        bounds
            .map(PolicyUnderTest::bounded)
            .into_iter()
            .chain(PolicyKind::ALL.into_iter().map(unbounded))
            .collect()
    }

    fn bounded(limit: Limit) -> PolicyUnderTest {
        PolicyUnderTest { policy: PolicyKind::ShortestQueue, max_outstanding: Some(limit) }
    }
}

impl std::fmt::Display for PolicyUnderTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.max_outstanding {
            None => self.policy.fmt(f),
            Some(limit) => write!(f, "{BOUNDED}{limit}"),
        }
    }
}

/// The name matches no policy under test.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy \"{0}\": use all, bounded:N or names from {names}", names = names())]
pub struct UnknownContender(String);

fn names() -> String {
    PolicyUnderTest::all().iter().map(PolicyUnderTest::to_string).collect::<Vec<_>>().join(", ")
}

impl FromStr for PolicyUnderTest {
    type Err = UnknownContender;
    fn from_str(name: &str) -> Result<Self, UnknownContender> {
        let unknown = || UnknownContender(name.to_owned());
        match name.strip_prefix(BOUNDED) {
            Some("auto") => Ok(PolicyUnderTest::bounded(Limit::Auto)),
            Some(n) => {
                let n =
                    n.parse().ok().filter(|n| (1..=u32::from(u16::MAX)).contains(n)).ok_or_else(unknown)?;
                Ok(PolicyUnderTest::bounded(Limit::Fixed(n)))
            }
            None => {
                Ok(PolicyUnderTest { policy: name.parse().map_err(|_| unknown())?, max_outstanding: None })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_read_and_nonsense_is_told_the_names() {
        for contender in PolicyUnderTest::all() {
            assert_eq!(contender.to_string().parse(), Ok(contender));
        }
        assert_eq!("bounded:7".parse::<PolicyUnderTest>().unwrap().max_outstanding, Some(Limit::Fixed(7)));
        for text in ["", "bounded", "bounded:", "bounded:0", "bounded:-1", "bounded:70000", "fastest"] {
            let error = text.parse::<PolicyUnderTest>().unwrap_err().to_string();
            assert!(error.contains("bounded:1") && error.contains("round_robin"), "{error}");
        }
    }
}
