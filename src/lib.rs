//! `lbd` spreads UDP requests over a pool of servers by **shortest queue**, keeps the pool healthy and the
//! right size, and shows what it does. Linux only.
//!
//! The balancer is the program `lbd`. This library is for the two ends: a [`Server`] that a balancer knows,
//! and a [`Client`] that sends requests through it.
//!
//! # A service
//!
//! A server runs a handler on worker threads behind a bounded queue. It registers with the balancer, reports
//! its queue, and refuses requests that do not fit in.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! let server = lbd::Server::builder("127.0.0.1:54000".parse()?)
//!     .id(1) // unique in the pool
//!     .workers(4)
//!     .start(|request, reply| reply.extend_from_slice(request))?;
//! assert!(server.wait_until_registered(Duration::from_secs(5)), "no balancer answers");
//! // To stop: no new requests arrive, the queue is finished, nothing is lost.
//! println!("{} requests served", server.stop().served);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A client
//!
//! ```no_run
//! let mut client = lbd::Client::connect("127.0.0.1:54001")?;
//! match client.call(b"hello") {
//!     Ok(reply) => println!("{}", String::from_utf8_lossy(&reply)),
//!     Err(lbd::CallError::Busy) => println!("every server is full; try again later"),
//!     Err(error) => println!("no answer: {error}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Many requests in flight: [`Client::submit`] sends one and returns its number, [`Client::poll`] returns the
//! next [`Outcome`](client::Outcome).
//!
//! ```no_run
//! use std::time::Duration;
//! use lbd::client::{Ending, Mode};
//!
//! let mut client = lbd::Client::builder().deadline(Duration::from_millis(500)).connect("127.0.0.1:54001")?;
//! for n in 0..100 {
//!     client.submit(format!("request {n}").as_bytes(), Mode::Idempotent)?;
//! }
//! let mut answered = 0;
//! while client.in_flight() > 0 {
//!     let Some(outcome) = client.poll(Duration::from_secs(1))? else { break };
//!     answered += u32::from(outcome.ending == Ending::Answered);
//! }
//! println!("{answered} of 100 answered");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! * Delivery is *at least once* with [`Mode::Idempotent`](client::Mode): the client repeats an unanswered
//!   request until its deadline. With [`Mode::OneShot`](client::Mode) a request is sent once.
//! * At most one answer to a request reaches the caller, even if the network duplicates datagrams.
//! * Every request ends exactly once: answered, busy, refused, or lost.
//!
//! # Other languages
//!
//! [`protocol`] has the constants of the frame. `docs/PROTOCOL.md` in the repository specifies every byte,
//! with test vectors; `tools/` has a client and a server in Python.
//!
//! # Stability
//!
//! The items on this page follow semantic versioning. The crate has more modules: they belong to lbd's own
//! programs and tests, are hidden from this documentation, and change without notice.

// Hidden from readers of the documentation only: the compiler still requires docs for their items.
// docs/ARCHITECTURE.md ("Import order") lists which module may import which; tests/tidy.rs checks it.
#[cfg_attr(doc, doc(hidden))]
pub mod admin;
#[cfg_attr(doc, doc(hidden))]
pub mod base;
pub mod client;
#[cfg_attr(doc, doc(hidden))]
pub mod config;
#[cfg_attr(doc, doc(hidden))]
pub mod daemon;
#[cfg_attr(doc, doc(hidden))]
pub mod doctor;
#[cfg_attr(doc, doc(hidden))]
pub mod io;
#[cfg_attr(doc, doc(hidden))]
pub mod lab;
#[cfg_attr(doc, doc(hidden))]
pub mod load;
#[cfg_attr(doc, doc(hidden))]
pub mod os;
#[cfg_attr(doc, doc(hidden))]
pub mod pool;
#[cfg_attr(doc, doc(hidden))]
pub mod report;
#[cfg_attr(doc, doc(hidden))]
pub mod role;
pub mod server;
#[cfg_attr(doc, doc(hidden))]
pub mod supervise;
#[cfg_attr(doc, doc(hidden))]
pub mod wire;

/// Constants of lbd's frames, for clients and servers in other languages.
///
/// All components of a deployment use frames of one size. `docs/PROTOCOL.md` specifies the bytes.
pub mod protocol {
    pub use crate::wire::header::{
        DATAGRAM_MAX, DATAGRAM_MAX_V6, FRAME_SIZE_MAX, FRAME_SIZE_MIN, FRAME_SIZE_MIN_TAGGED, HEADER_LEN,
        MAGIC, TRAILER_LEN, VERSION, VERSION_MIN,
    };
}

pub use client::{CallError, Client, ClientBuilder};
pub use server::{Server, ServerBuilder};

/// The README's Rust is compiled with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
