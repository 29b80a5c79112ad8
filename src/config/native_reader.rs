//! From a native pool as it is written to a [`NativePool`]: values, ranges, and which keys go together.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Key;
use super::document::shortened;
use super::form::Form;
use super::pools::{NativePool, NativeRun, Serving};
use super::raw::{RawPool, RawServing};
use super::reader::{Read, Reader};
use super::run::{Defaults, FIRST_PORTS};
use crate::base::service_time::BadServiceTime;
use crate::io::PAYLOAD_MAX;
use crate::pool::health::Rules;
use crate::wire::header::{FRAME_SIZE_MAX, FRAME_SIZE_MIN, FRAME_SIZE_MIN_TAGGED};
use crate::wire::{FrameFormat, ReplyPath};

/// Default size of a frame, in bytes.
pub const FRAME_SIZE: usize = 256;

/// Most servers of a pool, and the default.
const SERVERS_MAX: usize = 4_096;
const SERVERS: usize = 64;

/// What all native pools of a configuration have in common.
#[derive(Clone, Copy)]
pub struct NativeBase {
    /// Authenticates frames between components.
    pub key: Option<Key>,
    /// How long a client waits for a reply at most.
    pub deadline: Duration,
}

impl Reader<'_> {
    /// A native pool of this name.
    pub fn native_pool(
        &self,
        form: Form,
        raw: &RawPool,
        name: String,
        shared: NativeBase,
    ) -> Read<NativePool> {
        let key = |name: &str| form.key(name);
        let balancing = &raw.balancing;
        let ms = Duration::from_millis;
        let servers_max =
            self.number(&key("servers_max"), &balancing.servers_max, SERVERS, 1..=SERVERS_MAX)?;
        let format = self.frame_format(form, raw, shared.key.is_some())?;
        let (interval_key, interval) = (key("queue_update_interval"), &raw.queue_update_interval);
        let client_side = match self.pool_listen(form, raw)?.as_slice() {
            [(_, addr)] => *addr,
            _ => {
                let problem =
                    "a native pool listens on one address; write one IP:PORT, such as 0.0.0.0:54001";
                return Err(self.error(&key("listen"), problem));
            }
        };
        let paths = ["balancer", "direct"];
        let reply_path = match self.one_of(&key("reply_path"), &raw.frames.reply_path, &paths)? {
            "direct" => ReplyPath::Direct,
            _ => ReplyPath::Balancer,
        };
        let serving = raw.run.as_ref().map(|run| run.serving.clone()).unwrap_or_default();
        let server_side = self.address(&key("server_side"), &raw.server_side, "127.0.0.1:54000")?;
        let sides = [client_side.ip(), server_side.ip()];
        let pool = NativePool {
            name,
            client_side,
            server_side,
            format,
            key: shared.key,
            frames_per_datagram: self.frames_per_datagram(form, raw, format, sides)?,
            workers: self.workers(&key("workers"), &balancing.workers)?,
            pin: balancing.pin.unwrap_or(false),
            io: self.io(&key("io"), &balancing.io)?,
            reply_path,
            policy: self.policy(&key("policy"), &balancing.policy)?,
            max_outstanding: self.limit(&key("max_outstanding"), &balancing.max_outstanding)?,
            waiting_max: self.waiting_max(&key("waiting_max"), &balancing.waiting_max)?,
            servers_max,
            health: self.rules(&key("health"), &raw.health.rules, Rules::default())?,
            interval: self.duration(&interval_key, interval, ms(10), ms(1)..=ms(10_000))?,
            serving: self.serving(form, &serving)?,
            run: self.native_run(form, raw, servers_max)?,
            deadline: shared.deadline,
        };
        self.check_trust(form, &pool)?;
        Ok(pool)
    }

    fn frame_format(&self, form: Form, raw: &RawPool, is_keyed: bool) -> Read<FrameFormat> {
        let size_key = form.key("frame_size");
        let size =
            self.number(&size_key, &raw.frames.frame_size, FRAME_SIZE, FRAME_SIZE_MIN..=FRAME_SIZE_MAX)?;
        if is_keyed && size < FRAME_SIZE_MIN_TAGGED {
            let problem =
                format!("{size} leaves no room for the tag of key_file; use {FRAME_SIZE_MIN_TAGGED} or more");
            return Err(self.error(&size_key, problem));
        }
        Ok(if is_keyed { FrameFormat::tagged(size) } else { FrameFormat::plain(size) })
    }

    /// The most frames in one datagram. The default is what passes on both sides.
    fn frames_per_datagram(
        &self,
        form: Form,
        raw: &RawPool,
        format: FrameFormat,
        sides: [IpAddr; 2],
    ) -> Read<usize> {
        let [first, second] = sides.map(|ip| format.frames_per_datagram_to(ip));
        let (packed, most) = (&raw.frames.frames_per_datagram, PAYLOAD_MAX / format.size);
        self.number(&form.key("frames_per_datagram"), packed, first.min(second), 1..=most)
    }

    fn serving(&self, form: Form, raw: &RawServing) -> Read<Serving> {
        let key = |name: &str| form.key(&format!("run.{name}"));
        let service = raw.service.as_ref().map(|text| shortened(text.trim()).parse()).transpose();
        Ok(Serving {
            weight: self.number(&key("weight"), &raw.weight, 1, 1..=100)?,
            service: service.map_err(|e: BadServiceTime| self.error(&key("service"), e.to_string()))?,
            queue_capacity: self.number(&key("queue_capacity"), &raw.queue_capacity, 4_096, 1..=1 << 20)?,
            workers: self.number(&key("workers"), &raw.workers, 1, 1..=1_024)?,
        })
    }

    /// The replicas, and where the controller takes scaling requests for them.
    fn native_run(&self, form: Form, raw: &RawPool, servers_max: usize) -> Read<Option<NativeRun>> {
        let controller_key = form.key("controller");
        let Some(written) = &raw.run else {
            if raw.controller.is_some() {
                let problem =
                    "goes with \"run\", which says what the controller starts; add that, or remove the key";
                return Err(self.error(&controller_key, problem));
            }
            return Ok(None);
        };
        let room_key = form.key("servers_max");
        let ms = Duration::from_millis;
        let defaults = Defaults {
            ports: (form == Form::Sections).then_some(FIRST_PORTS),
            has_command: true,
            start_id: 0,
            room: (servers_max as u32, &room_key),
            grow_after: [ms(500), ms(10)],
        };
        Ok(Some(NativeRun {
            controller: self.address(&controller_key, &raw.controller, "127.0.0.1:55000")?,
            run: self.run(form, written, defaults)?,
        }))
    }

    /// Any host that reaches the server side can answer for servers; one that reaches the controller can stop
    /// them.
    fn check_trust(&self, form: Form, pool: &NativePool) -> Read<()> {
        let controller = pool.run.as_ref().map(|run| ("controller", run.controller));
        let sides: [Option<(&str, SocketAddr)>; 2] = [Some(("server_side", pool.server_side)), controller];
        for (name, addr) in sides.into_iter().flatten() {
            if !addr.ip().is_loopback() && pool.key.is_none() {
                let problem = format!(
                    "{} is not a loopback address, so frames between components must be authenticated; set \
                     key_file, or keep this side on 127.0.0.1",
                    addr.ip()
                );
                return Err(self.error_among(&form.ip_keys(name), problem));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
