//! Whether a pool takes traffic, and why not: for `/readyz`, `lbd status` and the dashboard.

use super::PoolStatus;
use super::source::NATIVE;
use crate::pool::health::State;

impl PoolStatus {
    /// Why the pool is not ready: no server is up. `None` if one is.
    pub fn unready(&self) -> Option<String> {
        if self.up() > 0 {
            return None;
        }
        let problems: String = self.problems.iter().map(|problem| format!("; {}", problem.text)).collect();
        let what = match self.servers.is_empty() {
            true if self.protocol == NATIVE => "no server has registered".to_owned(),
            true => "no server has an address".to_owned(),
            false => format!("no server is up ({})", self.by_state()),
        };
        Some(what + &problems)
    }

    /// The servers by state, such as `2 down, 1 suspect`.
    fn by_state(&self) -> String {
        let count = |state: State| self.servers.iter().filter(|server| server.state == state.name()).count();
        let counts = State::ALL.into_iter().map(|state| (count(state), state.name()));
        let parts = counts.filter(|&(count, _)| count > 0).map(|(count, name)| format!("{count} {name}"));
        parts.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{Problem, ServerStatus};

    fn pool(protocol: &str, states: &[&str]) -> PoolStatus {
        let server = |state: &&str| ServerStatus { state: (*state).to_owned(), ..ServerStatus::default() };
        let servers = states.iter().map(server).collect();
        PoolStatus { protocol: protocol.to_owned(), servers, ..PoolStatus::default() }
    }

    #[test]
    fn the_reason_names_states_and_problems() {
        for (protocol, states, reason) in [
            ("dns", &["down", "up"][..], None),
            ("dns", &["suspect", "down", "down"], Some("no server is up (1 suspect, 2 down)")),
            ("dns", &[], Some("no server has an address")),
            ("native", &[], Some("no server has registered")),
        ] {
            assert_eq!(pool(protocol, states).unready().as_deref(), reason, "{protocol} {states:?}");
        }
        let text = "cannot find an address of a.example: unknown";
        let problem = Problem { kind: "name".into(), text: text.into() };
        let mut unresolved = PoolStatus { problems: vec![problem], ..pool("dns", &[]) };
        assert_eq!(unresolved.unready(), Some(format!("no server has an address; {text}")));
        unresolved.servers = pool("dns", &["up"]).servers;
        assert_eq!(unresolved.unready(), None, "the other servers are enough");
    }
}
