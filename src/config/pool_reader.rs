//! From a pool as it is written to a [`Pool`]: what pools of every protocol have in common, and which keys
//! each protocol has.

use std::net::SocketAddr;

use super::address;
use super::form::{Form, NATIVE, PROTOCOL_NATIVE};
use super::native_reader::NativeBase;
use super::pools::{Pool, Protocol};
use super::raw::{OneOrMany, Raw, RawPool};
use super::reader::{Read, Reader};

/// Most pools of one configuration.
const POOLS_MAX: usize = 64;
/// Most addresses that one pool listens on.
const LISTEN_MAX: usize = 64;
/// Most letters of a name.
const NAME_LEN_MAX: usize = 32;

/// The sections that make a native pool run beside `pools`.
const SECTIONS: [&str; 4] = ["load_balancer", "server", "controller", "client"];

/// Pools as they are written, in their order.
pub type Written = Vec<(Form, RawPool)>;

impl Reader<'_> {
    /// The pools that a file has: the one of the sections first, if it runs, then those of `pools`.
    pub fn written_pools(&self, raw: &Raw) -> Read<Written> {
        let items = raw.pools.as_deref().unwrap_or_default();
        match items.len() {
            0 if raw.pools.is_some() => {
                return Err(self.error("pools", "the list is empty; list a pool, or remove the key"));
            }
            n if n > POOLS_MAX => {
                return Err(self.error("pools", format!("{n} pools are too many; {POOLS_MAX} are the most")));
            }
            _ => {}
        }
        let mut written = vec![];
        let has_native = items.iter().any(|item| item.protocol.as_deref() == Some(PROTOCOL_NATIVE));
        if raw.pools.is_none() || self.section(has_native).is_some() {
            written.push((Form::Sections, self.sections(raw)?));
        }
        written.extend(items.iter().cloned().enumerate().map(|(place, raw)| (Form::Item(place), raw)));
        Ok(written)
    }

    /// A section that is written and makes a native pool run. Beside a native pool in the list, `client` says
    /// only how its clients work.
    fn section(&self, has_native: bool) -> Option<&'static str> {
        let of_pool = |section: &&str| !has_native || *section != "client";
        SECTIONS.into_iter().filter(of_pool).find(|section| self.line(section).is_some())
    }

    /// Each pool by itself; `overlap.rs` checks them together.
    pub fn pools(&self, written: &Written, shared: NativeBase) -> Read<Vec<Pool>> {
        let mut pools: Vec<Pool> = vec![];
        for (form, raw) in written {
            let pool = self.pool(*form, raw, shared)?;
            if let Some(other) = pools.iter().position(|other| other.name() == pool.name()) {
                let name = pool.name();
                let Form::Item(_) = written[other].0 else {
                    let section = self.section(true).unwrap_or(SECTIONS[0]);
                    let problem = format!(
                        "\"{name}\" is the pool of the section \"{section}\" already; write one of the two, \
                         or give this pool another name"
                    );
                    return Err(self.error(&form.key("name"), problem));
                };
                let problem = format!("two pools have the name \"{name}\"; give each its own");
                return Err(self.error_among(&[written[other].0.key("name"), form.key("name")], problem));
            }
            pools.push(pool);
        }
        Ok(pools)
    }

    fn pool(&self, form: Form, raw: &RawPool, shared: NativeBase) -> Read<Pool> {
        let protocol = self.protocol(&form.key("protocol"), raw)?;
        self.check_keys(form, raw, protocol)?;
        let name = self.pool_name(form, raw, protocol.is_none())?;
        Ok(match protocol {
            None => Pool::Native(self.native_pool(form, raw, name, shared)?),
            Some(protocol) => Pool::Datagram(self.datagram_pool(form, raw, name, protocol)?),
        })
    }

    /// The protocol of unmodified servers; `None` = native.
    fn protocol(&self, key: &str, raw: &RawPool) -> Read<Option<Protocol>> {
        let of_servers = Protocol::ALL.map(Protocol::name);
        // A native pool needs more than arguments say.
        let names = match self.document {
            Some(_) => [&[PROTOCOL_NATIVE][..], &of_servers].concat(),
            None => of_servers.to_vec(),
        };
        if raw.protocol.is_none() {
            return Err(self.error(key, format!("is missing; write {}", names.join(" or "))));
        }
        let name = self.one_of(key, &raw.protocol, &names)?;
        Ok(Protocol::ALL.into_iter().find(|protocol| protocol.name() == name))
    }

    /// Refuses keys that the protocol has no use for.
    fn check_keys(&self, form: Form, raw: &RawPool, protocol: Option<Protocol>) -> Read<()> {
        const NATIVE: &[&str] = &[PROTOCOL_NATIVE];
        const DNS: &[&str] = &["dns"];
        const DATAGRAM: &[&str] = &["datagram"];
        const UNMODIFIED: &[&str] = &["dns", "datagram"];
        let (frames, health) = (&raw.frames, &raw.health);
        let run = raw.run.clone().unwrap_or_default();
        let keys = [
            ("server_side", raw.server_side.is_some(), NATIVE),
            ("controller", raw.controller.is_some(), NATIVE),
            ("queue_update_interval", raw.queue_update_interval.is_some(), NATIVE),
            ("frame_size", frames.frame_size.is_some(), NATIVE),
            ("frames_per_datagram", frames.frames_per_datagram.is_some(), NATIVE),
            ("reply_path", frames.reply_path.is_some(), NATIVE),
            ("run.weight", run.serving.weight.is_some(), NATIVE),
            ("run.service", run.serving.service.is_some(), NATIVE),
            ("run.queue_capacity", run.serving.queue_capacity.is_some(), NATIVE),
            ("run.workers", run.serving.workers.is_some(), NATIVE),
            ("affinity", raw.affinity.as_deref() == Some("client"), DATAGRAM),
            ("replies", raw.replies.is_some(), DATAGRAM),
            ("hold", raw.hold.is_some(), DATAGRAM),
            ("idle_timeout", raw.idle_timeout.is_some(), DATAGRAM),
            ("flows_per_source", raw.flows_per_source.is_some(), DATAGRAM),
            ("rate_limit_truncate", raw.rate_limit_truncate.is_some(), DNS),
            ("notify", raw.notify.is_some(), DNS),
            ("tcp_connections", raw.tcp_connections.is_some(), DNS),
            ("tcp_connections_per_source", raw.tcp_connections_per_source.is_some(), DNS),
            ("tcp_idle_timeout", raw.tcp_idle_timeout.is_some(), DNS),
            ("servers", raw.servers.is_some(), UNMODIFIED),
            ("timeout", raw.timeout.is_some(), UNMODIFIED),
            ("drain_timeout", raw.drain_timeout.is_some(), UNMODIFIED),
            ("ports", raw.ports.is_some(), UNMODIFIED),
            ("proxy_protocol", raw.proxy_protocol.is_some(), UNMODIFIED),
            ("transparent", raw.transparent.is_some(), UNMODIFIED),
            ("allow", raw.allow.is_some(), UNMODIFIED),
            ("deny", raw.deny.is_some(), UNMODIFIED),
            ("rate_per_source", raw.rate_per_source.is_some(), UNMODIFIED),
            ("resolve_interval", raw.resolve_interval.is_some(), UNMODIFIED),
            ("health.check", health.check.is_some(), UNMODIFIED),
            ("health.query", health.query.is_some(), UNMODIFIED),
            ("health.rcodes", health.rcodes.is_some(), UNMODIFIED),
            ("health.send", health.send.is_some(), UNMODIFIED),
            ("health.expect", health.expect.is_some(), UNMODIFIED),
            ("health.interval", health.interval.is_some(), UNMODIFIED),
            ("health.timeout", health.timeout.is_some(), UNMODIFIED),
            ("run.address", run.address.is_some(), UNMODIFIED),
        ];
        let protocol = protocol.map_or(PROTOCOL_NATIVE, Protocol::name);
        match keys.iter().find(|(_, is_written, of)| *is_written && !of.contains(&protocol)) {
            None => Ok(()),
            Some((name, _, of)) => {
                let of = of.join(" or ");
                let problem =
                    format!("does not go with protocol {protocol}; remove the key, or use protocol {of}");
                Err(self.error(&form.key(name), problem))
            }
        }
    }

    fn pool_name(&self, form: Form, raw: &RawPool, is_native: bool) -> Read<String> {
        let name = match (&raw.name, form) {
            (Some(name), _) => name,
            (None, Form::Item(place)) => return Ok(format!("pool-{}", place + 1)),
            (None, Form::Sections) => return Ok(NATIVE.to_owned()),
        };
        let refuse = |problem: &str| Err(self.refuse(&form.key("name"), name, problem));
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        match name.as_str() {
            NATIVE if !is_native => refuse("is the name of a native pool; choose another"),
            name if !(1..=NAME_LEN_MAX).contains(&name.len()) || !name.bytes().all(plain) => {
                refuse("is not a name; use 1 to 32 letters, digits, _, . and -")
            }
            name => Ok(name.to_owned()),
        }
    }

    /// The client-side addresses of a pool, each with the key of its text.
    pub fn pool_listen(&self, form: Form, raw: &RawPool) -> Read<Vec<(String, SocketAddr)>> {
        let key = form.key("listen");
        let texts = match &raw.listen {
            None => &[][..],
            Some(OneOrMany::One(text)) => std::slice::from_ref(text),
            Some(OneOrMany::Many(texts)) => texts,
        };
        if texts.is_empty() {
            let problem = "is missing; write the client-side address, such as \"*:53\" or \"127.0.0.1:5300\"";
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
            let addrs = address::listen(text.trim()).map_err(|problem| self.refuse(&key, text, problem))?;
            listen.extend(addrs.into_iter().map(|addr| (key.clone(), addr)));
        }
        Ok(listen)
    }

    /// One address that must be written.
    pub fn address(&self, key: &str, written: &Option<String>, example: &str) -> Read<SocketAddr> {
        let Some(text) = written else {
            return Err(self.error(key, format!("is missing; write IP:PORT, such as {example}")));
        };
        address::one(text.trim()).map_err(|problem| self.refuse(key, text, problem))
    }
}

#[cfg(test)]
mod tests;
