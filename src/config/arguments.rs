//! One datagram pool from the command line, by the same conversion and checks as from a file.

use super::raw::{OneOrMany, Raw, RawBalancing, RawPool, RawPoolServer, Text};
use super::reader::Reader;
use super::{Config, ConfigError};

/// A pool as the arguments of `lbd balancer` say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolArguments {
    /// `--listen`, one or more.
    pub listen: Vec<String>,
    /// `--protocol`.
    pub protocol: String,
    /// `--server`, one or more.
    pub servers: Vec<String>,
    /// `--affinity`.
    pub affinity: Option<String>,
    /// `--policy`.
    pub policy: Option<String>,
    /// `--replies`.
    pub replies: Option<String>,
    /// `--timeout`.
    pub timeout: Option<String>,
}

impl Config {
    /// A configuration with this pool only. Errors name the argument.
    pub fn of_pool(pool: PoolArguments) -> Result<Config, ConfigError> {
        let number = |text: Option<String>| text.map(|text| Text(text.trim().to_owned()));
        let pool = RawPool {
            listen: Some(OneOrMany::Many(pool.listen)),
            protocol: Some(pool.protocol),
            servers: Some(pool.servers.into_iter().map(RawPoolServer::Address).collect()),
            affinity: pool.affinity,
            balancing: RawBalancing { policy: pool.policy, ..RawBalancing::default() },
            replies: number(pool.replies),
            timeout: number(pool.timeout),
            ..RawPool::default()
        };
        let reader = Reader { file: None, document: None };
        reader.config(Raw { pools: Some(vec![pool]), ..Raw::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pools::{Affinity, Protocol};
    use crate::pool::select::PolicyKind;
    use std::time::Duration;

    fn arguments(change: impl FnOnce(&mut PoolArguments)) -> Result<Config, String> {
        let mut arguments = PoolArguments {
            listen: vec!["127.0.0.1:5300".to_owned()],
            protocol: "datagram".to_owned(),
            servers: vec!["127.0.0.1:5301".to_owned(), "127.0.0.1:5302".to_owned()],
            ..PoolArguments::default()
        };
        change(&mut arguments);
        Config::of_pool(arguments).map_err(|e| e.to_string())
    }

    #[test]
    fn arguments_make_the_pool_that_a_file_makes() {
        let config = arguments(|a| {
            a.affinity = Some("client".to_owned());
            a.policy = Some("round_robin".to_owned());
            a.replies = Some("3".to_owned());
            a.timeout = Some("1s".to_owned());
        })
        .unwrap();
        let file = r#"{"pools": [{"listen": "127.0.0.1:5300", "protocol": "datagram", "affinity": "client",
            "servers": ["127.0.0.1:5301", "127.0.0.1:5302"], "policy": "round_robin",
            "replies": 3, "timeout": 1000}]}"#;
        let from_file = Config::parse(file, None).unwrap();
        assert_eq!(config.pools, from_file.pools);
        assert!(config.native().is_none() && config.source.is_none());
        let pool = config.datagram_pools().next().unwrap();
        let settings = &pool.settings;
        assert_eq!((settings.protocol, settings.affinity), (Protocol::Datagram, Affinity::Client));
        assert_eq!((settings.policy, settings.timeout), (PolicyKind::RoundRobin, Duration::from_secs(1)));
    }

    #[test]
    fn a_mistake_names_its_argument() {
        let set = |to: &str| Some(to.to_owned());
        let push = |to: &str| to.to_owned();
        let cases: [(Result<Config, String>, &str); 9] = [
            (arguments(|a| a.servers.push(push("localhost"))), "--server: \"localhost\" has no port; write"),
            (
                arguments(|a| a.servers.push(push("127.0.0.1:5301"))),
                "--server: 127.0.0.1:5301 is listed twice",
            ),
            (arguments(|a| a.servers.push(push("127.0.0.1:5300"))), "--server: 127.0.0.1:5300 is where this"),
            (
                arguments(|a| a.listen.push(push("*:5300"))),
                "--listen: 0.0.0.0:5300 is taken twice, by --listen",
            ),
            (arguments(|a| a.protocol = push("tcp")), "--protocol: \"tcp\" is unknown; use dns or datagram"),
            (
                arguments(|a| a.affinity = set("cleint")),
                "--affinity: \"cleint\" is unknown; use none or client",
            ),
            (arguments(|a| a.policy = set("best")), "--policy: unknown policy \"best\": use shortest_queue"),
            (arguments(|a| a.replies = set("2")), "--replies: more than one response needs affinity: client"),
            (arguments(|a| a.timeout = set("soon")), "--timeout: \"soon\" is not a duration from 1ms to 1m"),
        ];
        for (result, says) in cases {
            let error = result.unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
