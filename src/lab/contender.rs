//! Who is compared: a policy, with a bound or without.

use std::str::FromStr;

use crate::select::PolicyKind;

/// A way of choosing servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    /// How a server is chosen.
    pub policy: PolicyKind,
    /// At most so many requests at one server.
    pub max_outstanding: Option<u32>,
}

impl Contender {
    /// All that there are.
    pub fn all() -> Vec<Contender> {
        PolicyKind::ALL.into_iter().map(|policy| Contender { policy, max_outstanding: None }).collect()
    }
}

impl std::fmt::Display for Contender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.policy.fmt(f)
    }
}

/// Not the name of a contender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy \"{0}\": use all, or some of {names}", names = names())]
pub struct UnknownContender(String);

fn names() -> String {
    Contender::all().iter().map(Contender::to_string).collect::<Vec<_>>().join(", ")
}

impl FromStr for Contender {
    type Err = UnknownContender;
    fn from_str(name: &str) -> Result<Self, UnknownContender> {
        let policy = name.parse().map_err(|_| UnknownContender(name.to_owned()))?;
        Ok(Contender { policy, max_outstanding: None })
    }
}
