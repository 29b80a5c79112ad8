//! Unmodified servers on one thread: each echoes its datagrams, or is silent for a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use lbd::base::batch::{FrameRef, Rx, Tx};
use lbd::base::time::{Clock, Instant};
use lbd::daemon::turn;
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, IoChoice, IoOptions};
use lbd::role::Role;

use super::speech::Speech;

/// Interval at which the thread checks whether it must end.
const LOOK: Duration = Duration::from_millis(20);

/// State of one server that other threads read and set.
#[derive(Default)]
struct One {
    is_silent: AtomicBool,
    /// Datagrams received.
    seen: AtomicU64,
}

/// Running servers.
pub struct Fakes {
    servers: Arc<[One]>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fakes {
    /// Starts a server at each of these addresses.
    pub fn start(speech: Speech, addrs: &[SocketAddr], clock: Clock) -> Result<Fakes> {
        let options = SocketOptions::default();
        let sockets: Vec<_> = addrs.iter().map(|&addr| bind(addr, &options)).collect::<Result<_, _>>()?;
        let options = IoOptions { slots: 256, prefault: true, ..IoOptions::default() };
        let mut io = BackEnd::open(IoChoice::Mio, sockets, &options, clock)?;
        let servers: Arc<[One]> = addrs.iter().map(|_| One::default()).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let mut role = Echo { speech, servers: Arc::clone(&servers), look: clock.now() };
        let over = Arc::clone(&is_over);
        let thread = std::thread::Builder::new().name("servers".into()).spawn(move || {
            while !over.load(Ordering::Relaxed) && turn(&mut io, &mut role, &clock).is_ok() {}
        })?;
        Ok(Fakes { servers, is_over, thread: Some(thread) })
    }

    /// Makes a server silent, or lets it answer again. It never answers datagrams of the silent time.
    pub fn set_silent(&self, server: usize, is_silent: bool) {
        self.servers[server].is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Datagrams that a server has received.
    pub fn seen(&self, server: usize) -> u64 {
        self.servers[server].seen.load(Ordering::Relaxed)
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // the thread has no result
        }
    }
}

struct Echo {
    speech: Speech,
    servers: Arc<[One]>,
    look: Instant,
}

impl Role for Echo {
    fn on_batch(&mut self, _: Instant, rx: &mut Rx, tx: &mut Tx) {
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            let server = &self.servers[usize::from(received.socket.0)];
            let stride = received.stride as usize;
            server.seen.fetch_add(bytes.len().div_ceil(stride) as u64, Ordering::Relaxed);
            if server.is_silent.load(Ordering::Relaxed) {
                continue;
            }
            let mut offset = received.start;
            for datagram in bytes.chunks_mut(stride) {
                self.speech.answer(datagram);
                let len = datagram.len() as u16;
                let answer = FrameRef { slot: received.slot, len, offset };
                offset += u32::from(len);
                let to = tx.destination(received.socket, received.peer, None);
                // A full turn drops the answer, which then counts as a lost request.
                let _sent = to.is_some_and(|to| tx.push(to, answer));
            }
        }
    }

    fn on_timeout(&mut self, now: Instant, _: &mut Tx) {
        self.look = now + LOOK;
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(self.look)
    }
}
