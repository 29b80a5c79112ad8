//! From the section `pools` as it is written to [`DatagramPool`]s: values, ranges, and what goes with what.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use super::document::shortened;
use super::pools::{
    Affinity, Check, DatagramPool, HealthCheck, PoolRun, PoolServer, Protocol, ProxyProtocol, Settings,
};
use super::raw::{OneOrMany, RawHealth, RawPool, RawPoolServer, Text};
use super::run::{Defaults, Written};
use super::target::Target;
use super::{Config, Read, Reader, address, probe, range_keys};
use crate::io::socket::any_port_towards;
use crate::pool::health::Rules;
use crate::pool::select::PolicyKind;

/// Unanswered checks or requests that take a suspect down.
const FALL: u8 = 3;

/// Pools of one configuration, and addresses that one of them listens on, at most.
const POOLS_MAX: usize = 64;
const LISTEN_MAX: usize = 64;

/// Servers of a pool at most.
const SERVERS_MAX: usize = 4_096;
/// Room for addresses of servers where none is written: names may lead to several.
const SERVERS_ROOM: usize = 16;

/// Local ports of a pool at most.
const PORTS_MAX: usize = 32_768;

/// Letters of a name at most.
const NAME_LEN_MAX: usize = 32;

impl Reader<'_> {
    /// Each pool by itself; [`Reader::check_listen`] and [`Reader::check_loops`] see them together.
    pub fn datagram_pools(&self, raw: &[RawPool]) -> Read<Vec<DatagramPool>> {
        match raw.len() {
            0 => return Err(self.error("pools", "the list is empty; list a pool, or remove the key")),
            n if n > POOLS_MAX => {
                return Err(self.error("pools", format!("{n} pools are too many; {POOLS_MAX} are the most")));
            }
            _ => {}
        }
        let mut pools: Vec<DatagramPool> = vec![];
        for (place, raw) in raw.iter().enumerate() {
            let pool = self.datagram_pool(place, raw)?;
            if let Some(other) = pools.iter().position(|other| other.settings.name == pool.settings.name) {
                let keys = [other, place].map(|place| format!("pools[{place}].name"));
                let problem =
                    format!("two pools have the name \"{}\"; give each its own", pool.settings.name);
                return Err(self.error_among(&keys.each_ref().map(String::as_str), problem));
            }
            pools.push(pool);
        }
        Ok(pools)
    }

    fn datagram_pool(&self, place: usize, raw: &RawPool) -> Read<DatagramPool> {
        let key = |name: &str| format!("pools[{place}].{name}");
        let ms = Duration::from_millis;
        let protocol = self.protocol(&key("protocol"), raw)?;
        let dns = protocol == Protocol::Dns;
        let affinity = match self.one_of(&key("affinity"), &raw.affinity, &["none", "client"])? {
            "client" => Affinity::Client,
            _ => Affinity::None,
        };
        let flows = affinity == Affinity::Client;
        self.check_protocol_keys(place, raw, dns, flows)?;
        let servers = self.pool_servers(place, raw, dns)?;
        let run = self.pool_run(place, raw, &servers)?;
        let run_max = run.as_ref().map_or(0, |run| run.run.scale.max as usize);
        // One that leaves keeps its room for a while, and another may have come meanwhile.
        let room = (servers.len() + 2 * run_max).clamp(SERVERS_ROOM, SERVERS_MAX);
        let servers_max_key = key("servers_max");
        let servers_max = self.number(&servers_max_key, &raw.servers_max, room, 1..=SERVERS_MAX)?;
        if servers_max < servers.len() + run_max {
            let n = servers.len() + run_max;
            let problem =
                format!("{servers_max} leaves no room for {n} servers; raise it, or remove the key");
            return Err(self.error(&servers_max_key, problem));
        }
        let workers = self.workers(&key("workers"), &raw.workers)?;
        let replies = match &raw.replies {
            None if flows => None,
            replies => Some(self.number(&key("replies"), replies, 1, 0..=1_000_000)?),
        };
        if !flows && replies > Some(1) {
            let problem = "more than one answer needs affinity: client; add that, or use 1 or 0";
            return Err(self.error(&key("replies"), problem));
        }
        if !flows && replies == Some(0) && raw.max_outstanding.is_some() {
            let problem =
                "nothing is outstanding where no answer is awaited (replies: 0); remove one of the two";
            return Err(self.error(&key("max_outstanding"), problem));
        }
        let policy = self.pool_policy(&key("policy"), raw, flows, replies)?;
        let day = ms(86_400_000);
        let settings = Settings {
            name: self.pool_name(place, raw)?,
            protocol,
            affinity,
            workers,
            servers_max,
            policy,
            max_outstanding: self.limit(&key("max_outstanding"), &raw.max_outstanding)?,
            waiting_max: self.waiting_max(&key("waiting_max"), &raw.waiting_max)?,
            timeout: self.duration(&key("timeout"), &raw.timeout, ms(2_000), ms(1)..=ms(60_000))?,
            replies,
            hold: match &raw.hold {
                None => None,
                hold => Some(self.duration(&key("hold"), hold, ms(0), ms(0)..=ms(600_000))?),
            },
            idle_timeout: self.duration(
                &key("idle_timeout"),
                &raw.idle_timeout,
                ms(120_000),
                ms(10)..=day,
            )?,
            proxy_protocol: self.proxy_protocol(&key("proxy_protocol"), raw, flows)?,
            transparent: raw.transparent.unwrap_or(false),
            allow: self.networks(&key("allow"), &raw.allow)?,
            deny: self.networks(&key("deny"), &raw.deny)?,
            rate_per_source: match &raw.rate_per_source {
                None => None,
                rate => Some(self.number(&key("rate_per_source"), rate, 1.0, 0.001..=1e7)?),
            },
            health: self.health(&key("health"), &raw.health, dns)?,
        };
        let (interval_key, every) = (key("resolve_interval"), &raw.resolve_interval);
        let (tcp_key, tcp) = (key("tcp_connections"), if dns { 1_024 } else { 0 });
        Ok(DatagramPool {
            settings,
            listen: self.pool_listen(place, raw)?.into_iter().map(|(_, addr)| addr).collect(),
            servers,
            run,
            ports: self.local_ports(place, raw, workers, dns, flows)?,
            resolve_interval: self.duration(&interval_key, every, ms(30_000), ms(1_000)..=day)?,
            tcp_connections: self.number(&tcp_key, &raw.tcp_connections, tcp, 0..=100_000)?,
            pin: raw.pin.unwrap_or(false),
            io: self.io(&key("io"), &raw.io)?,
        })
    }

    fn protocol(&self, key: &str, raw: &RawPool) -> Read<Protocol> {
        if raw.protocol.is_none() {
            return Err(self.error(key, "is missing; write dns or datagram"));
        }
        let name = self.one_of(key, &raw.protocol, &Protocol::ALL.map(Protocol::name))?;
        Ok(if name == Protocol::Dns.name() { Protocol::Dns } else { Protocol::Datagram })
    }

    fn pool_policy(&self, key: &str, raw: &RawPool, flows: bool, replies: Option<u32>) -> Read<PolicyKind> {
        let policy = self.policy(key, &raw.policy)?;
        if policy == PolicyKind::ShortestDelay && (flows || replies == Some(0)) {
            let why = if flows { "affinity: client" } else { "replies: 0" };
            let problem = format!(
                "shortest_delay goes by how long answers take, and with {why} none is waited for; use shortest_queue"
            );
            return Err(self.error(key, problem));
        }
        Ok(policy)
    }

    /// What a protocol has no use for, and what there is no use for without flows.
    fn check_protocol_keys(&self, place: usize, raw: &RawPool, dns: bool, flows: bool) -> Read<()> {
        let refuse = |name: &str, problem: &str| Err(self.error(&format!("pools[{place}].{name}"), problem));
        let of_datagrams = [
            ("affinity", flows),
            ("replies", raw.replies.is_some()),
            ("hold", raw.hold.is_some()),
            ("idle_timeout", raw.idle_timeout.is_some()),
        ];
        if let Some((name, _)) = of_datagrams.into_iter().find(|(_, written)| dns && *written) {
            return refuse(name, "does not go with protocol dns; remove it, or use protocol datagram");
        }
        if raw.tcp_connections.is_some() && !dns {
            return refuse("tcp_connections", "goes with protocol dns only; remove the key");
        }
        if raw.idle_timeout.is_some() && !flows {
            return refuse("idle_timeout", "needs affinity: client; add that, or remove the key");
        }
        Ok(())
    }

    fn pool_name(&self, place: usize, raw: &RawPool) -> Read<String> {
        let Some(name) = &raw.name else { return Ok(format!("pool-{}", place + 1)) };
        let refuse = |problem: &str| {
            Err(self.error(&format!("pools[{place}].name"), format!("\"{}\" {problem}", shortened(name))))
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        match name.as_str() {
            "native" => refuse("is the name of the pool with lbd's own frames; choose another"),
            name if !(1..=NAME_LEN_MAX).contains(&name.len()) || !name.bytes().all(plain) => {
                refuse("is not a name; use 1 to 32 letters, digits, _, . and -")
            }
            name => Ok(name.to_owned()),
        }
    }

    /// Where a pool listens, each address with the key of its text.
    fn pool_listen(&self, place: usize, raw: &RawPool) -> Read<Vec<(String, SocketAddr)>> {
        let key = format!("pools[{place}].listen");
        let texts = match &raw.listen {
            None => &[][..],
            Some(OneOrMany::One(text)) => std::slice::from_ref(text),
            Some(OneOrMany::Many(texts)) => texts,
        };
        if texts.is_empty() {
            let problem = "is missing; write where clients ask, such as \"*:53\" or \"127.0.0.1:5300\"";
            return Err(self.error(&key, problem));
        }
        if texts.len() > LISTEN_MAX {
            let problem = format!("{} addresses are too many; {LISTEN_MAX} are the most", texts.len());
            return Err(self.error(&key, problem));
        }
        let mut listen = vec![];
        for (i, text) in texts.iter().enumerate() {
            let key = match &raw.listen {
                Some(OneOrMany::Many(_)) => format!("{key}[{i}]"),
                _ => key.clone(),
            };
            let addrs = address::listen(text.trim())
                .map_err(|problem| self.error(&key, format!("\"{}\" {problem}", shortened(text))))?;
            listen.extend(addrs.into_iter().map(|addr| (key.clone(), addr)));
        }
        Ok(listen)
    }

    fn pool_servers(&self, place: usize, raw: &RawPool, dns: bool) -> Read<Vec<PoolServer>> {
        let key = format!("pools[{place}].servers");
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
                    "{} is listed twice, at places {other} and {i} from 0; remove one",
                    shortened(&server.target.to_string())
                );
                return Err(self.error(&address_key(place, i, one), problem));
            }
            if let Some(other) = ids.insert(server.id, i) {
                let id = server.id;
                let problem = format!(
                    "id {id} is taken twice, by the servers at places {other} and {i} from 0; give each its \
                     own (without one it is the place)"
                );
                let keys = [other, i].map(|i| format!("{key}[{i}].id"));
                return Err(self.error_among(&keys.each_ref().map(String::as_str), problem));
            }
            servers.push(server);
        }
        Ok(servers)
    }

    fn pool_run(&self, place: usize, raw: &RawPool, servers: &[PoolServer]) -> Read<Option<PoolRun>> {
        let Some(raw) = &raw.run else { return Ok(None) };
        let at = format!("pools[{place}].run");
        let key = |name: &str| format!("{at}.{name}");
        for (name, is_written, example) in [
            ("command", raw.command.is_some(), "the program, such as [\"serve\", \"--port\", \"{port}\"]"),
            ("port_range_start", raw.port_range_start.is_some(), "the first port, such as 5310"),
            ("port_range_end", raw.port_range_end.is_some(), "the port after the last one, such as 5342"),
        ] {
            if !is_written {
                return Err(self.error(&key(name), format!("is missing; write {example}")));
            }
        }
        let id_last = servers.iter().map(|server| server.id).max();
        let (room_key, threshold_key) = (format!("pools[{place}].servers_max"), key("threshold"));
        let defaults = Defaults {
            ports: 1..2,
            start_id: id_last.map_or(0, |id| id.saturating_add(1_000)),
            room: ((SERVERS_MAX - servers.len().min(SERVERS_MAX)) as u32, &room_key),
            // The balancer is asked four times a second.
            grow_after: [Duration::from_secs(1); 2],
        };
        let run = self.run(&Written::pool(raw, &at, &threshold_key), defaults)?;
        if let Some(id) = id_last.filter(|&id| id >= run.start_id) {
            let problem = format!(
                "{} is not above the ids of the servers in the list, which go up to {id}; raise it, or remove the key",
                run.start_id
            );
            return Err(self.error(&key("start_id"), problem));
        }
        let address = self.ip(&key("address"), &raw.address)?;
        if address.is_unspecified() {
            let problem = format!("{address} is no address to send to; write the one that servers listen on");
            return Err(self.error(&key("address"), problem));
        }
        Ok(Some(PoolRun { address, run }))
    }

    /// What the controller runs has to be told to the balancer.
    pub fn check_runs(&self, config: &Config) -> Read<()> {
        match config.run_pools().next() {
            Some(_) if config.admin.listen.is_none() => {
                let problem = "is off, but by way of it the controller tells the balancer which servers it runs \
                     (pools[].run); give it an address, or remove the key";
                Err(self.error("admin.listen", problem))
            }
            _ => Ok(()),
        }
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
        let target = address::server(address.trim(), dns)
            .map_err(|problem| self.error(&key, format!("\"{}\" {problem}", shortened(address))))?;
        Ok(PoolServer {
            target,
            weight: self.number(&format!("{at}.weight"), weight, 1, 1..=100)?,
            id: self.number(&format!("{at}.id"), id, i as u32, 0..=u32::MAX / 2)?,
        })
    }

    fn local_ports(
        &self,
        place: usize,
        raw: &RawPool,
        workers: usize,
        dns: bool,
        flows: bool,
    ) -> Read<usize> {
        let [key, workers_key] = ["ports", "workers"].map(|name| format!("pools[{place}].{name}"));
        let default = match (dns, flows) {
            (true, _) => 16 * workers,
            (false, false) => 256,
            (false, true) => 1_024,
        };
        let ports = self.number(&key, &raw.ports, default, 1..=PORTS_MAX)?;
        if ports < workers {
            let problem = format!(
                "ports = {ports} is less than workers = {workers}, and each worker needs one; raise it, \
                 or lower that"
            );
            return Err(self.error_among(&[&key, &workers_key], problem));
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
            address::network(text.trim()).map_err(|problem| {
                self.error(&format!("{key}[{i}]"), format!("\"{}\" {problem}", shortened(text)))
            })
        };
        if written.as_ref().is_some_and(Vec::is_empty) {
            return Err(self.error(key, "the list is empty; name who is meant, or remove the key"));
        }
        written.iter().flatten().enumerate().map(read).collect()
    }

    fn health(&self, at: &str, raw: &RawHealth, dns: bool) -> Read<HealthCheck> {
        let key = |name: &str| format!("{at}.{name}");
        let ms = Duration::from_millis;
        let checks = if dns { ["dns", "payload", "none"] } else { ["none", "dns", "payload"] };
        let check = self.one_of(&key("check"), &raw.check, &checks)?;
        for (name, written, of) in [
            ("query", raw.query.is_some(), "dns"),
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
            probe::payload(text)
                .map_err(|problem| self.error(&key(name), format!("\"{}\" {problem}", shortened(text))))
        };
        let check = match check {
            "dns" => {
                let text = raw.query.as_deref().unwrap_or(". NS");
                let (name, kind) = probe::query(text).map_err(|problem| {
                    self.error(&key("query"), format!("\"{}\" {problem}", shortened(text)))
                })?;
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
            let [timeout, interval] = [timeout, interval].map(humantime::format_duration);
            let problem = format!(
                "health.timeout = {timeout} is longer than health.interval = {interval}; lower it, \
                 or raise that"
            );
            return Err(self.error_among(&[&key("timeout"), &key("interval")], problem));
        }
        Ok(HealthCheck {
            check,
            interval,
            timeout,
            rules: self.rules(at, raw, Rules { fall: FALL, ..Rules::default() })?,
        })
    }

    /// No two sockets want the same address.
    pub fn check_listen(&self, raw: &[RawPool], config: &Config) -> Read<()> {
        let mut taken = native_addresses(config);
        for (place, raw) in raw.iter().enumerate() {
            for (key, addr) in self.pool_listen(place, raw)? {
                if let Some(other) = taken.iter().find(|other| other.takes(addr)) {
                    let others: Vec<String> = other.keys.iter().map(|key| self.named(key)).collect();
                    let problem = format!(
                        "{addr} is taken twice, by {} and by {}; choose addresses that do not overlap",
                        others.join(" to "),
                        self.named(&key)
                    );
                    let keys: Vec<&str> = other.keys.iter().chain([&key]).map(String::as_str).collect();
                    return Err(self.error_among(&keys, problem));
                }
                taken.push(Taken { keys: vec![key], addr, port_last: addr.port() });
            }
        }
        for (place, pool) in config.datagram_pools().enumerate() {
            let Some(PoolRun { address, run }) = &pool.run else { continue };
            let keys = range_keys(&format!("pools[{place}].run"));
            if let Some((port, other)) = run
                .ports
                .clone()
                .find_map(|port| Some((port, taken.iter().find(|o| o.takes((*address, port).into()))?)))
            {
                let others = other.keys.join(" to ");
                let problem = format!(
                    "port {port} is taken twice, by {others} and by {}; choose ports that do not overlap",
                    keys.join(" to ")
                );
                let keys: Vec<&str> = other.keys.iter().chain(&keys).map(String::as_str).collect();
                return Err(self.error_among(&keys, problem));
            }
            let port_last = run.ports.end - 1;
            taken.push(Taken { keys: keys.to_vec(), addr: (*address, run.ports.start).into(), port_last });
        }
        Ok(())
    }

    /// No datagram comes back to the pool that it came from, and none to where lbd's own frames are taken.
    pub fn check_loops(&self, raw: &[RawPool], config: &Config) -> Read<()> {
        let pools: Vec<&DatagramPool> = config.datagram_pools().collect();
        let native = native_addresses(config);
        let leads_to: Vec<Vec<usize>> = pools.iter().map(|pool| next_pools(pool, &pools)).collect();
        for (place, pool) in pools.iter().enumerate() {
            for (i, server) in pool.servers.iter().enumerate() {
                let Target::Addr(addr) = server.target else { continue };
                let ends = |pool: &&DatagramPool| pool.is_itself(addr);
                let frames = native.iter().find(|taken| taken.is_one() && address::reaches(addr, taken.addr));
                let what = if ends(pool) {
                    "is where this pool itself listens".to_owned()
                } else if let Some(taken) = frames {
                    format!("is where {} takes lbd's own frames", taken.keys[0])
                } else if let Some(next) = pools.iter().position(|pool| ends(pool))
                    && leads_back(next, place, &leads_to)
                {
                    format!("leads back to this pool by way of {}", pools[next].settings.name)
                } else {
                    continue;
                };
                let written = raw[place].servers.as_deref().unwrap_or_default();
                let key = address_key(place, i, &written[i]);
                return Err(self.error(&key, format!("{addr} {what}; name a server")));
            }
        }
        Ok(())
    }
}

/// The key of the text that says where a server is.
fn address_key(place: usize, i: usize, server: &RawPoolServer) -> String {
    match server {
        RawPoolServer::Address(_) => format!("pools[{place}].servers[{i}]"),
        RawPoolServer::Full { .. } => format!("pools[{place}].servers[{i}].address"),
    }
}

/// Ports of one address that something listens on.
struct Taken {
    /// The keys that say so.
    keys: Vec<String>,
    /// The address with the first port.
    addr: SocketAddr,
    port_last: u16,
}

impl Taken {
    fn takes(&self, addr: SocketAddr) -> bool {
        let ports = self.addr.port()..=self.port_last;
        ports.contains(&addr.port()) && address::clash(addr, (self.addr.ip(), addr.port()).into())
    }

    /// Whether it is one address and no range.
    fn is_one(&self) -> bool {
        self.keys.len() == 1
    }
}

/// Where the components for lbd's own frames listen.
fn native_addresses(config: &Config) -> Vec<Taken> {
    let Some(pool) = config.native() else { return vec![] };
    let one =
        |key: &str, addr: SocketAddr| Taken { keys: vec![key.to_owned()], addr, port_last: addr.port() };
    let many = |section: &str, ip: IpAddr, ports: &Range<u16>| Taken {
        keys: range_keys(section).to_vec(),
        addr: (ip, ports.start).into(),
        port_last: ports.end - 1,
    };
    let server_ip = pool.balancer_for_servers().ip();
    let client_ip = any_port_towards(pool.balancer_for_clients()).ip();
    let mut taken = vec![
        one("load_balancer.client_side_port", pool.client_side),
        one("load_balancer.server_side_port", pool.server_side),
    ];
    if let Some(run) = &pool.run {
        taken.push(one("controller.port", run.controller));
        taken.push(many("server", server_ip, &run.run.ports));
    }
    taken.push(many("client", client_ip, &config.client.ports));
    taken
}

/// The pools that servers of this one are the front of.
fn next_pools(pool: &DatagramPool, pools: &[&DatagramPool]) -> Vec<usize> {
    let addrs = pool.servers.iter().filter_map(|server| match server.target {
        Target::Addr(addr) => Some(addr),
        Target::Name { .. } => None,
    });
    addrs.filter_map(|addr| pools.iter().position(|pool| pool.is_itself(addr))).collect()
}

/// Whether datagrams get from one pool to another.
fn leads_back(from: usize, to: usize, leads_to: &[Vec<usize>]) -> bool {
    let (mut seen, mut todo) = (vec![false; leads_to.len()], vec![from]);
    while let Some(pool) = todo.pop() {
        if pool == to {
            return true;
        }
        if !std::mem::replace(&mut seen[pool], true) {
            todo.extend(&leads_to[pool]);
        }
    }
    false
}

#[cfg(test)]
mod tests;
