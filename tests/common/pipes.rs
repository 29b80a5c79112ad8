//! Roles joined in memory: what one sends in a turn is what the next one receives, without sockets and
//! without allocations. For what is measured: the roles alone.

use std::net::SocketAddr;
use std::time::Duration;

use lbd::base::batch::{Received, Rx, SocketId, Tx};
use lbd::base::time::Instant;
use lbd::pool::health::Rules;
use lbd::pool::waiting::Limit;
use lbd::pool::{autoscale, select};
use lbd::role::Role;
use lbd::role::native::{self, NativeRole};
use lbd::role::server::{self, ServerRole, Work};
use lbd::wire::{FrameFormat, ReplyPath};

pub const FORMAT: FrameFormat = FrameFormat { size: 256, tagged: false };
/// Datagrams of one peer that arrive as one, as UDP_GRO merges them.
const MERGED: usize = 64;
/// Pending requests of a pool whose servers have a limit, at most.
const PENDING_MAX: usize = 1_024;

/// A role, the memory of its turns, and its addresses by socket.
pub struct End<R> {
    pub role: R,
    addrs: Vec<SocketAddr>,
    rx: Rx,
    tx: Tx,
    slots_used: u16,
}

impl<R: Role> End<R> {
    pub fn new(role: R, addrs: &[SocketAddr]) -> Self {
        let slots = 256;
        let frames = slots * MERGED;
        End {
            role,
            addrs: addrs.to_vec(),
            rx: Rx::new(slots, MERGED * FORMAT.size),
            tx: Tx::new(frames, frames * FORMAT.size, 1),
            slots_used: 0,
        }
    }

    /// One turn over what was delivered; what it sends waits to be carried on.
    pub fn turn(&mut self, now: Instant) {
        self.role.on_batch(now, &mut self.rx, &mut self.tx);
        self.role.on_timeout(now, &mut self.tx);
    }

    /// The same without timers.
    pub fn batch(&mut self, now: Instant) {
        self.role.on_batch(now, &mut self.rx, &mut self.tx);
    }

    /// Delivers what it sends to `other`, if the destination is an address of `other`.
    pub fn carry_to<O: Role>(&self, other: &mut End<O>) {
        for destination in self.tx.destinations() {
            let Some(socket) = other.addrs.iter().position(|&addr| addr == destination.to) else { continue };
            let peer = self.addrs[usize::from(destination.socket.0)];
            let mut frames = self.tx.frames(destination).peekable();
            while frames.peek().is_some() {
                let slot = other.slots_used;
                other.slots_used += 1;
                let mut len = 0;
                for frame in frames.by_ref().take(MERGED) {
                    let bytes = self.tx.bytes(&self.rx, frame);
                    other.rx.slot_mut(slot)[len..len + bytes.len()].copy_from_slice(bytes);
                    len += bytes.len();
                }
                let (socket, stride) = (SocketId(socket as u16), FORMAT.size as u32);
                other.rx.push(Received {
                    socket,
                    peer,
                    local_ip: None,
                    slot,
                    start: 0,
                    len: len as u32,
                    stride,
                });
            }
        }
    }

    /// Lets the role add to what it sends.
    pub fn with_tx<T>(&mut self, act: impl FnOnce(&mut R, &mut Tx) -> T) -> T {
        act(&mut self.role, &mut self.tx)
    }

    /// Frames that it sends in this turn.
    pub fn sent(&self) -> usize {
        self.tx.frame_count()
    }

    /// The end of the turn: what came in and what went out is forgotten.
    pub fn clear(&mut self) {
        self.tx.clear();
        self.rx.clear();
        self.slots_used = 0;
    }
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub fn front() -> SocketAddr {
    addr(54_001)
}

pub fn back() -> SocketAddr {
    addr(54_000)
}

/// The `n`-th client's address.
pub fn client(n: u16) -> SocketAddr {
    addr(51_000 + n)
}

/// A balancer and its servers, all of them up.
pub struct Pool {
    pub balancer: End<NativeRole>,
    pub servers: Vec<End<ServerRole>>,
    pub now: Instant,
}

impl Pool {
    /// Servers without a limit.
    pub fn new(servers: usize, work: Work, reply_path: ReplyPath) -> Pool {
        Pool::with(servers, work, reply_path, None)
    }

    /// Servers that have one request each at most: the other requests are pending in the balancer.
    pub fn limited(servers: usize, work: Work, reply_path: ReplyPath) -> Pool {
        Pool::with(servers, work, reply_path, Some(Limit::Fixed(1)))
    }

    fn with(servers: usize, work: Work, reply_path: ReplyPath, max_outstanding: Option<Limit>) -> Pool {
        let now = Instant::from_nanos(5_000_000_000);
        let interval = Duration::from_millis(10);
        let settings = native::NativePoolSettings {
            format: FORMAT,
            key: None,
            secret: [7; 16],
            workers: 1,
            // What takes time is measured.
            policy: match work {
                Work::Timed { .. } => select::PolicyKind::ShortestDelay,
                Work::Echo | Work::Handlers => select::PolicyKind::ShortestQueue,
            },
            reply_path,
            servers_max: servers.max(64),
            max_outstanding,
            waiting_max: max_outstanding.map_or(0, |_| PENDING_MAX),
            interval,
            controller: Some(addr(55_000)),
            scale: autoscale::Policy {
                threshold: 1e9,
                grow_after: Duration::from_secs(1),
                shrink_after: Duration::from_secs(86_400),
                grow_cool_down: Duration::from_secs(1),
                shrink_cool_down: Duration::from_secs(1),
                grow_max: None,
                shrink_max: 1,
                min: 1,
                max: 4096,
            },
            health: Rules::default(),
            own: vec![front(), back()],
            seed: 1,
        };
        let balancer = End::new(NativeRole::workers(settings, now).remove(0), &[front(), back()]);
        let server = |id: usize| {
            let settings = server::ServerSettings {
                format: FORMAT,
                key: None,
                id: id as u32,
                weight: 1,
                queue_capacity: 16_384,
                interval,
                balancer: back(),
                work: work.clone(),
                seed: id as u64 + 100,
            };
            End::new(ServerRole::new(settings, now), &[addr(50_000 + id as u16)])
        };
        let mut pool = Pool { balancer, servers: (0..servers).map(server).collect(), now };
        while (0..servers).any(|slot| !pool.balancer.role.tree().is_eligible(select::Slot::new(slot))) {
            pool.now += Duration::from_millis(1);
            pool.turn_servers();
            pool.clear_servers();
            pool.balancer.turn(pool.now);
            pool.deliver_to_servers();
            pool.balancer.clear();
        }
        pool
    }

    /// What the balancer sends reaches its servers.
    pub fn deliver_to_servers(&mut self) {
        for server in &mut self.servers {
            self.balancer.carry_to(server);
        }
    }

    /// Every server takes a turn; what they send to the balancer reaches it.
    pub fn turn_servers(&mut self) {
        for server in &mut self.servers {
            server.turn(self.now);
            server.carry_to(&mut self.balancer);
        }
    }

    pub fn clear_servers(&mut self) {
        self.servers.iter_mut().for_each(End::clear);
    }
}
