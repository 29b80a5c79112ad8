//! A server of minimal cost, against which a load generator is measured.
//!
//! It answers each request independently, at once or after a random time. There is no queue, so the latency
//! that a client should see is known.
//!
//! ```sh
//! taskset -c 1 target/release/examples/null --listen 127.0.0.1:7000 &
//! taskset -c 0 target/release/loadgen --target 127.0.0.1:7000 --rate 2000000 --frame 128 --clients 4 \
//!     --timeout 100ms
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use lbd::base::batch::{FrameRef, SocketId};
use lbd::base::rng::{Rng, entropy};
use lbd::base::service_time::ServiceTime;
use lbd::base::time::{Clock, Instant};
use lbd::io::socket::{SocketOptions, bind};
use lbd::io::{BackEnd, DatagramIo, IoChoice, IoOptions};
use lbd::os::signals::Stop;
use lbd::os::terminal::tell;
use lbd::wire::header::{DATAGRAM_MAX, FRAME_SIZE_MIN};
use lbd::wire::{Frame, FrameFormat, Kind};

/// Answers requests at once, or after a random time. Ends with SIGINT or SIGTERM and prints its counters.
#[derive(Parser)]
struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
    /// Form of an answer: the frame as a response (native), the message with QR set (dns), or the unmodified
    /// datagram (raw)
    #[arg(long, value_name = "NAME", default_value = "native")]
    protocol: Protocol,
    /// Bytes of a frame, with --protocol native
    #[arg(long, value_name = "BYTES", default_value_t = FRAME_SIZE_MIN)]
    frame: usize,
    /// Read requests without answering them
    #[arg(long)]
    silent: bool,
    /// Random time before an answer: fixed, exp, bimodal or lognormal with a mean, such as exp:2ms
    #[arg(long, value_name = "SHAPE:MEAN")]
    delay: Option<ServiceTime>,
    /// Busy-wait for requests instead of sleeping: more punctual answers
    #[arg(long)]
    spin: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Native,
    Dns,
    Raw,
}

/// A scheduled answer; the order puts the earliest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    at: Reverse<Instant>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("null: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let format = FrameFormat::plain(args.frame);
    let frames_per_datagram = if args.protocol == Protocol::Native { DATAGRAM_MAX / args.frame } else { 1 };
    let options = IoOptions { prefault: true, ..IoOptions::for_frames(args.frame, frames_per_datagram) };
    let clock = Clock::start();
    let socket = bind(args.listen, &SocketOptions::default())?;
    let mut io = BackEnd::open(IoChoice::Auto, vec![socket], &options, clock)?;
    let stop = Stop::on_signals(vec![io.waker()])?;
    let (mut rng, mut waiting) = (Rng::new(entropy()), BinaryHeap::<Waiting>::new());
    let (mut requests, mut answers) = (0u64, 0u64);
    while !stop.is_asked() {
        let next = waiting.peek().map(|first| first.at.0);
        io.wait(if args.spin { Some(Instant::ZERO) } else { next })?;
        io.receive()?;
        let now = clock.now();
        let (rx, tx) = io.turn();
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            let unit = if args.protocol == Protocol::Native { args.frame } else { received.stride as usize };
            let slot = (received.slot, received.start);
            for (request, at) in bytes.chunks_mut(unit).zip((0..).step_by(unit)) {
                requests += 1;
                if args.silent || !turn_round(args.protocol, &format, request) {
                    continue;
                }
                answers += 1;
                if let Some(delay) = &args.delay {
                    let at = Reverse(now + delay.sample(&mut || rng.unit_f64()));
                    waiting.push(Waiting { at, to: received.peer, bytes: request.to_vec() });
                } else if let Some(to) = tx.destination(SocketId(0), received.peer, None) {
                    let frame = FrameRef { slot: slot.0, len: request.len() as u16, offset: slot.1 + at };
                    let _ = tx.push(to, frame);
                }
            }
        }
        while waiting.peek().is_some_and(|first| first.at.0 <= now) {
            let first = waiting.peek().expect("there is one");
            let room =
                tx.destination(SocketId(0), first.to, None).and_then(|to| tx.stage(to, first.bytes.len()));
            let Some(room) = room else { break };
            room.copy_from_slice(&first.bytes);
            waiting.pop();
        }
        io.flush()?;
    }
    io.recount_drops();
    let counters = io.counters();
    println!(
        "{}",
        serde_json::json!({
            "requests": requests,
            "answers": answers,
            "kernel_drops": counters.kernel_drops,
            "not_sent": counters.send_full + counters.send_failed + counters.send_too_large,
        })
    );
    Ok(())
}

/// Turns a request into its answer in place; false if the bytes are not a request.
fn turn_round(protocol: Protocol, format: &FrameFormat, bytes: &mut [u8]) -> bool {
    match protocol {
        Protocol::Native => match Frame::check(bytes, format) {
            Ok(mut frame) if frame.kind() == Kind::ClientRequest => {
                frame.header.kind = Kind::ClientResponse as u8;
                true
            }
            _ => false,
        },
        Protocol::Dns => {
            lbd::wire::dns::query(bytes).is_ok() && {
                bytes[2] |= 0x80;
                true
            }
        }
        Protocol::Raw => true,
    }
}
