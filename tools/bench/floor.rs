//! A forwarder that only forwards: the cost of kernel and engine without the work of a balancer.
//!
//! It serves the same clients and servers as the balancer, and receives and sends datagrams in the same way.
//! It uses round robin, and puts the client's address into the frame and takes it out again. It does not
//! check, select or count. The cost of balancing is the ratio of a balancer's cost to this one's in one run.
//! `tools/bench/compare` runs it.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Parser;
use lbd::base::batch::{FrameRef, Rx, SocketId, Tx};
use lbd::base::time::{Clock, Instant};
use lbd::daemon::turn;
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{IoChoice, IoOptions};
use lbd::os::{back_end, signals::Stop};
use lbd::role::Role;
use lbd::wire::frame::{pack_addr, unpack_addr};
use lbd::wire::{Frame, Header, Kind, RequestOp, ServerOp};
use zerocopy::FromBytes;

/// Forwards frames between clients and servers without any other work; with --answer, answers every request
#[derive(Parser)]
struct Args {
    /// Client-side address
    #[arg(long, default_value = "127.0.0.1:54001")]
    front: SocketAddr,
    /// Server-side address
    #[arg(long, default_value = "127.0.0.1:54000")]
    back: SocketAddr,
    /// Bytes of a frame
    #[arg(long, default_value_t = 256)]
    frame: usize,
    /// Frames per datagram at most
    #[arg(long, default_value_t = 1)]
    frames_per_datagram: usize,
    /// Turn every request into its answer instead of forwarding it
    #[arg(long)]
    answer: bool,
    /// I/O back end: auto, mio or io_uring
    #[arg(long, default_value_t)]
    io: IoChoice,
}

const FRONT: SocketId = SocketId(0);
const BACK: SocketId = SocketId(1);

struct Forwarder {
    frame_size: usize,
    answers: bool,
    servers: Vec<SocketAddr>,
    next: usize,
}

impl Forwarder {
    /// Forwards a request to the next server.
    fn request(&mut self, peer: SocketAddr, at: FrameRef, header: &mut Header, tx: &mut Tx) {
        let Some(&server) = self.servers.get(self.next) else { return };
        self.next = (self.next + 1) % self.servers.len();
        let (ip, port) = pack_addr(peer);
        header.client_ip = ip;
        header.client_port.set(port);
        send(BACK, server, at, tx);
    }

    /// Forwards a reply to the client that it names.
    fn reply(&mut self, at: FrameRef, header: &mut Header, tx: &mut Tx) {
        header.kind = Kind::ClientResponse as u8;
        header.op = 0;
        send(FRONT, unpack_addr(header.client_ip, header.client_port.get()), at, tx);
    }

    /// Accepts every server that registers: the SYNC makes it a member.
    fn register(&mut self, peer: SocketAddr, at: FrameRef, bytes: &mut [u8], tx: &mut Tx) {
        let (asked, _) = Header::read_from_prefix(bytes).expect("a whole frame");
        let slot = self.servers.iter().position(|&known| known == peer).unwrap_or_else(|| {
            self.servers.push(peer);
            self.servers.len() - 1
        });
        let mut header = Header::new(Kind::ControllerRequest, self.frame_size);
        header.op = RequestOp::Sync as u8;
        header.sequence = asked.sequence;
        header.server_epoch = asked.server_epoch;
        header.slot.set(slot as u16);
        Frame::write(bytes, &header, &[]);
        send(BACK, peer, at, tx);
    }
}

fn send(socket: SocketId, to: SocketAddr, at: FrameRef, tx: &mut Tx) {
    if let Some(destination) = tx.destination(socket, to, None) {
        let _ = tx.push(destination, at); // fails if the turn is full; the floor does not count that
    }
}

impl Role for Forwarder {
    fn on_batch(&mut self, _: Instant, rx: &mut Rx, tx: &mut Tx) {
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            for (number, frame) in bytes.chunks_exact_mut(self.frame_size).enumerate() {
                let offset = received.start + (number * self.frame_size) as u32;
                let at = FrameRef { slot: received.slot, len: self.frame_size as u16, offset };
                let (header, _) = Header::mut_from_prefix(frame).expect("a whole frame");
                if self.answers {
                    header.kind = Kind::ClientResponse as u8;
                    send(FRONT, received.peer, at, tx);
                } else if received.socket == FRONT {
                    self.request(received.peer, at, header, tx);
                } else if header.op == ServerOp::Reply as u8 {
                    self.reply(at, header, tx);
                } else if header.op == ServerOp::Register as u8 {
                    self.register(received.peer, at, frame, tx);
                }
            }
        }
    }

    fn on_timeout(&mut self, _: Instant, _: &mut Tx) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let plain = SocketOptions::default();
    let mut sockets = vec![bind(args.front, &plain)?];
    if !args.answer {
        sockets.push(bind(args.back, &plain)?);
    }
    let clock = Clock::start();
    let options = IoOptions::for_frames(args.frame, args.frames_per_datagram);
    let options = IoOptions { prefault: true, ..options };
    let mut io = back_end(args.io, sockets, &options, clock)?;
    let stop = Stop::on_signals(vec![io.waker()])?;
    let mut role = Forwarder { frame_size: args.frame, answers: args.answer, servers: vec![], next: 0 };
    while !stop.is_asked() {
        turn(&mut io, &mut role, &clock)?;
    }
    Ok(())
}
