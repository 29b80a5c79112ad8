//! From a dns or datagram pool as it is written to a [`DatagramPool`]: values, ranges, and which keys go
//! together.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::document::shortened;
use super::form::Form;
use super::pools::{
    Affinity, Check, DatagramPool, DatagramSettings, HealthCheck, PoolRun, PoolServer, Protocol,
    ProxyProtocol,
};
use super::raw::{RawHealth, RawPool, RawPoolServer, Text};
use super::reader::{Read, Reader};
use super::run::Defaults;
use super::target::Target;
use super::{address, probe};
use crate::base::duration::exact;
use crate::pool::health::Rules;
use crate::pool::select::PolicyKind;
use crate::wire::dns::{NOERROR, NXDOMAIN};

/// Default number of unanswered checks or requests that take a suspect down.
const FALL: u8 = 3;
/// Default RCODEs of answers to a dns check that mean alive.
const ALIVE: [u8; 2] = [NOERROR, NXDOMAIN];
/// Most servers of a pool.
const SERVERS_MAX: usize = 4_096;
/// Least default capacity in addresses of servers: names may lead to several.
const SERVERS_ROOM: usize = 16;
/// Least default of TCP connections of one source.
const TCP_PER_SOURCE_MIN: usize = 16;
/// Share of the TCP connections that one source has by default: one part in this number.
const TCP_PER_SOURCE_PARTS: usize = 4;
/// Default time for which a server that leaves keeps its zone transfers.
const DRAIN: Duration = Duration::from_secs(30);
/// Longest default time for which a server that leaves keeps its flows.
const FLOWS_DRAIN_MAX: Duration = Duration::from_secs(300);
/// Most local ports of a pool.
const PORTS_MAX: usize = 32_768;

/// What decides the other defaults of a pool.
#[derive(Clone, Copy)]
struct PoolKeys {
    /// Whether servers answer DNS queries.
    is_dns: bool,
    /// Whether all datagrams of a client go to one server.
    has_flows: bool,
}

impl Reader<'_> {
    /// A pool of unmodified servers with this name.
    pub fn datagram_pool(
        &self,
        form: Form,
        raw: &RawPool,
        name: String,
        protocol: Protocol,
    ) -> Read<DatagramPool> {
        let key = |name: &str| form.key(name);
        let ms = Duration::from_millis;
        let affinity = match self.one_of(&key("affinity"), &raw.affinity, &["none", "client"])? {
            "client" => Affinity::Client,
            _ => Affinity::None,
        };
        let kind = PoolKeys { is_dns: protocol == Protocol::Dns, has_flows: affinity == Affinity::Client };
        let (dns, flows) = (kind.is_dns, kind.has_flows);
        if raw.idle_timeout.is_some() && !flows {
            let problem = "needs affinity: client; add that, or remove the key";
            return Err(self.error(&key("idle_timeout"), problem));
        }
        let balancing = &raw.balancing;
        let servers = self.pool_servers(form, raw, dns)?;
        let run = self.pool_run(form, raw, &servers)?;
        let run_max = run.as_ref().map_or(0, |run| run.run.scale.max as usize);
        // A server that leaves keeps its slot for a while, and another may have started by then.
        let room = (servers.len() + 2 * run_max).clamp(SERVERS_ROOM, SERVERS_MAX);
        let servers_max_key = key("servers_max");
        let servers_max = self.number(&servers_max_key, &balancing.servers_max, room, 1..=SERVERS_MAX)?;
        if servers_max < servers.len() + run_max {
            let n = servers.len() + run_max;
            let problem =
                format!("{servers_max} leaves no room for {n} servers; raise it, or remove the key");
            return Err(self.error(&servers_max_key, problem));
        }
        let workers = self.workers(&key("workers"), &balancing.workers)?;
        let replies = match &raw.replies {
            None if flows => None,
            replies => Some(self.number(&key("replies"), replies, 1, 0..=1_000_000)?),
        };
        if !flows && replies > Some(1) {
            let problem = "more than one response needs affinity: client; add that, or use 1 or 0";
            return Err(self.error(&key("replies"), problem));
        }
        if !flows && replies == Some(0) && balancing.max_outstanding.is_some() {
            let problem =
                "no request is outstanding without responses (replies: 0); remove one of the two keys";
            return Err(self.error(&key("max_outstanding"), problem));
        }
        let policy = self.pool_policy(&key("policy"), raw, flows, replies)?;
        let day = ms(86_400_000);
        let hold = self.duration(&key("hold"), &raw.hold, ms(0), ms(0)..=ms(600_000))?;
        let (idle_key, idle) = (key("idle_timeout"), &raw.idle_timeout);
        let idle_timeout = self.duration(&idle_key, idle, ms(120_000), ms(10)..=day)?;
        let drain = if flows { idle_timeout.min(FLOWS_DRAIN_MAX) } else { DRAIN };
        if raw.flows_per_source.is_some() && !flows {
            let problem = "needs affinity: client; add that, or remove the key";
            return Err(self.error(&key("flows_per_source"), problem));
        }
        if raw.rate_limit_truncate.is_some() && raw.rate_per_source.is_none() {
            let problem = "needs rate_per_source; add that, or remove the key";
            return Err(self.error(&key("rate_limit_truncate"), problem));
        }
        let of_source = self.number(&key("flows_per_source"), &raw.flows_per_source, 1, 1..=1_000_000)?;
        let truncate_key = key("rate_limit_truncate");
        let rate = self.number(&key("rate_per_source"), &raw.rate_per_source, 1.0, 0.001..=1e7)?;
        let (tcp_key, tcp) = (key("tcp_connections"), if dns { 1_024 } else { 0 });
        let tcp_connections = self.number(&tcp_key, &raw.tcp_connections, tcp, 0..=100_000)?;
        let (per_source_key, per_source) =
            (key("tcp_connections_per_source"), &raw.tcp_connections_per_source);
        let per_source_max = (tcp_connections / TCP_PER_SOURCE_PARTS).max(TCP_PER_SOURCE_MIN);
        let (tcp_idle_key, tcp_idle) = (key("tcp_idle_timeout"), &raw.tcp_idle_timeout);
        let settings = DatagramSettings {
            name,
            protocol,
            affinity,
            workers,
            servers_max,
            policy,
            max_outstanding: self.limit(&key("max_outstanding"), &balancing.max_outstanding)?,
            waiting_max: self.waiting_max(&key("waiting_max"), &balancing.waiting_max)?,
            timeout: self.duration(&key("timeout"), &raw.timeout, ms(2_000), ms(1)..=ms(60_000))?,
            replies,
            hold: raw.hold.is_some().then_some(hold),
            idle_timeout,
            drain_timeout: self.duration(&key("drain_timeout"), &raw.drain_timeout, drain, ms(0)..=day)?,
            proxy_protocol: self.proxy_protocol(&key("proxy_protocol"), raw, flows)?,
            transparent: raw.transparent.unwrap_or(false),
            allow: self.networks(&key("allow"), &raw.allow)?,
            deny: self.networks(&key("deny"), &raw.deny)?,
            rate_per_source: raw.rate_per_source.is_some().then_some(rate),
            rate_limit_truncate: self.number(&truncate_key, &raw.rate_limit_truncate, 2, 0..=1_000)?,
            notify_all: self.one_of(&key("notify"), &raw.notify, &["one", "all"])? == "all",
            flows_per_source: raw.flows_per_source.is_some().then_some(of_source),
            tcp_connections_per_source: self.number(
                &per_source_key,
                per_source,
                per_source_max,
                1..=100_000,
            )?,
            tcp_idle_timeout: self.duration(&tcp_idle_key, tcp_idle, ms(30_000), ms(100)..=day)?,
            health: self.health(&key("health"), &raw.health, dns)?,
        };
        let listen = self.pool_listen(form, raw)?;
        if settings.transparent {
            self.check_families(form, raw, (&listen, &servers, run.as_ref()))?;
        }
        let (interval_key, every) = (key("resolve_interval"), &raw.resolve_interval);
        Ok(DatagramPool {
            settings,
            listen: listen.into_iter().map(|(_, addr)| addr).collect(),
            servers,
            run,
            ports: self.local_ports(form, raw, workers, kind)?,
            resolve_interval: self.duration(&interval_key, every, ms(30_000), ms(1_000)..=day)?,
            tcp_connections,
            pin: balancing.pin.unwrap_or(false),
            io: self.io(&key("io"), &balancing.io)?,
        })
    }

    /// A datagram from a client's address can reach servers of its address family only.
    fn check_families(
        &self,
        form: Form,
        raw: &RawPool,
        (listen, servers, run): (&[(String, SocketAddr)], &[PoolServer], Option<&PoolRun>),
    ) -> Read<()> {
        let clients = listen.iter().map(|(key, addr)| (key.clone(), addr.ip()));
        let written = raw.servers.as_deref().unwrap_or_default();
        let listed = servers.iter().enumerate().filter_map(|(i, server)| match server.target {
            Target::Addr(addr) => Some((address_key(form, i, &written[i]), addr.ip())),
            // The look-up leaves the addresses of the other family out.
            Target::Name { .. } => None,
        });
        let replicas = run.map(|run| (form.key("run.address"), run.address));
        let ends: Vec<(String, IpAddr)> = clients.chain(listed).chain(replicas).collect();
        let (first_key, first) = &ends[0];
        let Some((other_key, other)) = ends.iter().find(|(_, ip)| ip.is_ipv4() != first.is_ipv4()) else {
            return Ok(());
        };
        let problem = format!(
            "transparent needs clients and servers of one address family, and {first} ({first_key}) and \
             {other} ({other_key}) differ; write addresses of one family (for IPv4 0.0.0.0:PORT instead of \
             *:PORT), or remove transparent"
        );
        Err(self.error_among(&[form.key("transparent"), other_key.clone()], problem))
    }

    fn pool_policy(&self, key: &str, raw: &RawPool, flows: bool, replies: Option<u32>) -> Read<PolicyKind> {
        let policy = self.policy(key, &raw.balancing.policy)?;
        if policy == PolicyKind::ShortestDelay && (flows || replies == Some(0)) {
            let why = if flows { "affinity: client" } else { "replies: 0" };
            let problem = format!(
                "policy shortest_delay needs response times, and {why} waits for no response; use \
                 shortest_queue"
            );
            return Err(self.error(key, problem));
        }
        Ok(policy)
    }

    fn pool_servers(&self, form: Form, raw: &RawPool, dns: bool) -> Read<Vec<PoolServer>> {
        let key = form.key("servers");
        let written = raw.servers.as_deref().unwrap_or_default();
        match written.len() {
            0 if raw.run.is_some() => {}
            0 => {
                let problem = "there is none; list at least one, such as \"127.0.0.1:5301\"";
                return Err(self.error(&key, problem));
            }
            n if n > SERVERS_MAX => {
                return Err(self.error(&key, format!("{n} servers are too many; {SERVERS_MAX} are the most")));
            }
            _ => {}
        }
        let mut servers = vec![];
        let (mut targets, mut ids) = (HashMap::new(), HashMap::new());
        for (i, one) in written.iter().enumerate() {
            let server = self.pool_server(&format!("{key}[{i}]"), i, one, dns)?;
            if let Some(other) = targets.insert(server.target.clone(), i) {
                let problem = format!(
                    "{} is listed twice, at positions {other} and {i} from 0; remove one",
                    shortened(&server.target.to_string())
                );
                return Err(self.error(&address_key(form, i, one), problem));
            }
            if let Some(other) = ids.insert(server.id, i) {
                let id = server.id;
                let problem = format!(
                    "id {id} is taken twice, by the servers at positions {other} and {i} from 0; give each \
                     its own (the default is the position)"
                );
                let keys = [other, i].map(|i| format!("{key}[{i}].id"));
                return Err(self.error_among(&keys, problem));
            }
            servers.push(server);
        }
        Ok(servers)
    }

    fn pool_run(&self, form: Form, raw: &RawPool, servers: &[PoolServer]) -> Read<Option<PoolRun>> {
        let Some(run) = &raw.run else { return Ok(None) };
        let key = |name: &str| form.key(&format!("run.{name}"));
        let id_last = servers.iter().map(|server| server.id).max();
        let room_key = form.key("servers_max");
        let defaults = Defaults {
            ports: None,
            has_command: false,
            start_id: id_last.map_or(0, |id| id.saturating_add(1_000)),
            room: ((SERVERS_MAX - servers.len().min(SERVERS_MAX)) as u32, &room_key),
            // The controller samples the balancer four times a second.
            grow_after: [Duration::from_secs(1); 2],
        };
        let address = self.ip(&key("address"), &run.address)?;
        let run = self.run(form, run, defaults)?;
        if let Some(id) = id_last.filter(|&id| id >= run.start_id) {
            let problem = format!(
                "{} is not above the ids of the servers in the list, which go up to {id}; raise it, or \
                 remove the key",
                run.start_id
            );
            return Err(self.error(&key("start_id"), problem));
        }
        if address.is_unspecified() {
            let problem = format!(
                "{address} is no address of a server; write the IP address that the servers listen on"
            );
            return Err(self.error(&key("address"), problem));
        }
        Ok(Some(PoolRun { address, run }))
    }

    fn pool_server(&self, at: &str, i: usize, raw: &RawPoolServer, dns: bool) -> Read<PoolServer> {
        let none = None;
        let (key, address, weight, id): (_, _, &Option<Text>, &Option<Text>) = match raw {
            RawPoolServer::Address(address) => (at.to_owned(), address, &none, &none),
            RawPoolServer::Full { address, weight, id } => {
                let key = format!("{at}.address");
                let missing = || self.error(&key, "is missing; write IP:PORT or HOST:PORT");
                let address = address.as_ref().ok_or_else(missing)?;
                (key, address, weight, id)
            }
        };
        let target = address::server(address.trim(), dns);
        let target = target.map_err(|problem| self.refuse(&key, address, problem))?;
        Ok(PoolServer {
            target,
            weight: self.number(&format!("{at}.weight"), weight, 1, 1..=100)?,
            id: self.number(&format!("{at}.id"), id, i as u32, 0..=u32::MAX / 2)?,
        })
    }

    fn local_ports(&self, form: Form, raw: &RawPool, workers: usize, kind: PoolKeys) -> Read<usize> {
        let [key, workers_key] = ["ports", "workers"].map(|name| form.key(name));
        let default = match (kind.is_dns, kind.has_flows) {
            (true, _) => 16 * workers,
            (false, false) => 256,
            (false, true) => 1_024,
        };
        let ports = self.number(&key, &raw.ports, default, 1..=PORTS_MAX)?;
        if ports < workers {
            let problem = format!(
                "ports = {ports} is less than workers = {workers}, and each worker needs one; raise it, or \
                 lower that"
            );
            return Err(self.error_among(&[key, workers_key], problem));
        }
        Ok(ports)
    }

    fn proxy_protocol(&self, key: &str, raw: &RawPool, flows: bool) -> Read<ProxyProtocol> {
        match self.one_of(key, &raw.proxy_protocol, &["off", "first", "every"])? {
            "first" if !flows => Err(self.error(key, "first needs affinity: client; add that, or use every")),
            "first" => Ok(ProxyProtocol::First),
            "every" => Ok(ProxyProtocol::Every),
            _ => Ok(ProxyProtocol::Off),
        }
    }

    fn networks(&self, key: &str, written: &Option<Vec<String>>) -> Read<Vec<ipnet::IpNet>> {
        let read = |(i, text): (usize, &String)| {
            let key = format!("{key}[{i}]");
            address::network(text.trim()).map_err(|problem| self.refuse(&key, text, problem))
        };
        if written.as_ref().is_some_and(Vec::is_empty) {
            return Err(self.error(key, "the list is empty; write addresses or networks, or remove the key"));
        }
        written.iter().flatten().enumerate().map(read).collect()
    }

    fn rcodes(&self, key: &str, written: &Option<Vec<String>>) -> Read<Vec<u16>> {
        let Some(names) = written else { return Ok(ALIVE.map(u16::from).to_vec()) };
        if names.is_empty() {
            return Err(self.error(key, "the list is empty; write names such as NOERROR, or remove the key"));
        }
        let read = |(i, text): (usize, &String)| {
            probe::rcode(text).map_err(|problem| self.refuse(&format!("{key}[{i}]"), text, problem))
        };
        names.iter().enumerate().map(read).collect()
    }

    fn health(&self, at: &str, raw: &RawHealth, dns: bool) -> Read<HealthCheck> {
        let key = |name: &str| format!("{at}.{name}");
        let ms = Duration::from_millis;
        let checks = if dns { ["dns", "payload", "none"] } else { ["none", "dns", "payload"] };
        let check = self.one_of(&key("check"), &raw.check, &checks)?;
        for (name, written, of) in [
            ("query", raw.query.is_some(), "dns"),
            ("rcodes", raw.rcodes.is_some(), "dns"),
            ("send", raw.send.is_some(), "payload"),
            ("expect", raw.expect.is_some(), "payload"),
        ] {
            if written && check != of {
                let problem = format!(
                    "goes with check: {of} only, and this is {check}; change that, or remove the key"
                );
                return Err(self.error(&key(name), problem));
            }
        }
        let bytes = |name: &str, text: &String| {
            probe::payload(text).map_err(|problem| self.refuse(&key(name), text, problem))
        };
        let check = match check {
            "dns" => {
                let text = raw.query.as_deref().unwrap_or(". NS");
                let query = probe::query(text);
                let (name, kind) = query.map_err(|problem| self.refuse(&key("query"), text, problem))?;
                Check::Dns { name, kind }
            }
            "payload" => {
                let missing = || {
                    let problem = "is missing; write what to send, such as \"ping\" or \"hex:0a0b\"";
                    self.error(&key("send"), problem)
                };
                let send = bytes("send", raw.send.as_ref().ok_or_else(missing)?)?;
                let expect = raw.expect.as_ref().map(|text| bytes("expect", text)).transpose()?;
                Check::Payload { send, expect: expect.unwrap_or_default() }
            }
            _ => Check::None,
        };
        let interval = self.duration(&key("interval"), &raw.interval, ms(1_000), ms(10)..=ms(3_600_000))?;
        let timeout = self.duration(&key("timeout"), &raw.timeout, interval, ms(1)..=ms(3_600_000))?;
        if timeout > interval {
            let [timeout, interval] = [timeout, interval].map(exact);
            let problem = format!(
                "health.timeout = {timeout} is longer than health.interval = {interval}; lower it, or raise \
                 that"
            );
            return Err(self.error_among(&[key("timeout"), key("interval")], problem));
        }
        Ok(HealthCheck {
            check,
            interval,
            timeout,
            rcodes: self.rcodes(&key("rcodes"), &raw.rcodes)?,
            rules: self.rules(at, &raw.rules, Rules { fall: FALL, ..Rules::default() })?,
        })
    }
}

/// The key of the text that says where a server is.
pub fn address_key(form: Form, i: usize, server: &RawPoolServer) -> String {
    match server {
        RawPoolServer::Address(_) => form.key(&format!("servers[{i}]")),
        RawPoolServer::Full { .. } => form.key(&format!("servers[{i}].address")),
    }
}
