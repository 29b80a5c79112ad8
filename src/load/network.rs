//! Errors that the network, or this machine, reports about requests that were sent.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Sub};

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkError {
    /// ECONNREFUSED: the target's machine has no socket on the port.
    Refused,
    /// EHOSTUNREACH: no route to the target's machine.
    HostUnreachable,
    /// ENETUNREACH: no route to the target's network.
    NetworkUnreachable,
    /// EPERM, EACCES: a rule of a firewall rejects the request.
    NotPermitted,
    /// Any other error.
    Other,
}

impl NetworkError {
    const ALL: [NetworkError; 5] = [
        NetworkError::Refused,
        NetworkError::HostUnreachable,
        NetworkError::NetworkUnreachable,
        NetworkError::NotPermitted,
        NetworkError::Other,
    ];

    /// The kind of an error number (errno(3)).
    pub fn of(errno: i32) -> NetworkError {
        match errno {
            libc::ECONNREFUSED => NetworkError::Refused,
            libc::EHOSTUNREACH => NetworkError::HostUnreachable,
            libc::ENETUNREACH => NetworkError::NetworkUnreachable,
            libc::EPERM | libc::EACCES => NetworkError::NotPermitted,
            _ => NetworkError::Other,
        }
    }

    /// Name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            NetworkError::Refused => "connection_refused",
            NetworkError::HostUnreachable => "host_unreachable",
            NetworkError::NetworkUnreachable => "network_unreachable",
            NetworkError::NotPermitted => "not_permitted",
            NetworkError::Other => "other",
        }
    }

    /// What it means, for the operator.
    pub fn text(self) -> &'static str {
        match self {
            NetworkError::Refused => "connection refused: no program listens at this address",
            NetworkError::HostUnreachable => "host unreachable: no route to this address",
            NetworkError::NetworkUnreachable => "network unreachable: no route to this address",
            NetworkError::NotPermitted => "not permitted: a firewall rule rejects the requests",
            NetworkError::Other => "the kernel or the network rejects the requests",
        }
    }
}

/// Number of errors by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkErrors([u64; NetworkError::ALL.len()]);

impl NetworkErrors {
    /// Counts errors of one kind.
    pub fn add(&mut self, error: NetworkError, count: u64) {
        self.0[error as usize] += count;
    }

    /// The most frequent kind.
    pub fn main(&self) -> Option<NetworkError> {
        let (error, count) = NetworkError::ALL.into_iter().zip(self.0).max_by_key(|(_, count)| *count)?;
        (count > 0).then_some(error)
    }

    /// The counts above 0 by name.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let all = NetworkError::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0);
        all.map(|(error, count)| (error.name().to_owned(), count)).collect()
    }

    /// The most frequent kind of counts by name.
    pub fn main_of(counts: &BTreeMap<String, u64>) -> Option<NetworkError> {
        let known = |error: &NetworkError| counts.get(error.name()).copied().unwrap_or(0);
        NetworkError::ALL.into_iter().filter(|error| known(error) > 0).max_by_key(known)
    }
}

impl AddAssign for NetworkErrors {
    fn add_assign(&mut self, other: NetworkErrors) {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own += other);
    }
}

impl Sub for NetworkErrors {
    type Output = NetworkErrors;
    fn sub(mut self, before: NetworkErrors) -> NetworkErrors {
        self.0.iter_mut().zip(before.0).for_each(|(own, before)| *own -= before);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_kind_and_the_most_frequent_one_is_named() {
        let mut errors = NetworkErrors::default();
        assert_eq!(errors.main(), None);
        for (errno, count) in [(libc::ECONNREFUSED, 2), (libc::EHOSTUNREACH, 3), (libc::EIO, 1)] {
            errors.add(NetworkError::of(errno), count);
        }
        let before = errors;
        errors += before;
        assert_eq!(errors.main(), Some(NetworkError::HostUnreachable));
        let names = (errors - before).by_name();
        assert_eq!(names.get("connection_refused"), Some(&2));
        assert_eq!(NetworkErrors::main_of(&names), Some(NetworkError::HostUnreachable));
        assert_eq!(NetworkErrors::main_of(&BTreeMap::new()), None);
    }
}
