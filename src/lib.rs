//! `lbd` spreads UDP requests over a pool of servers by **shortest queue**, keeps the pool healthy and the
//! right size, and shows what it does. Linux only.
//!
//! Build a service with [`Server`], use it with [`Client`]; run the balancer with the `lbd` program.
//!
//! Data flows one way: *socket batch in -> check frame -> select server -> rewrite in place -> socket batch out*.
//! Arrows point the way imports go; nothing points back:
//!
//! ```text
//! bin -> daemon -> { role, io, config, logging, status, admin }
//! bin -> admin -> { status, operator, config }
//! bin -> load -> { role, io, dns, page, daemon::{signals, limits} }
//! page -> chart
//! client, server (the public library) -> { role, io }
//! role -> { wire, select, crew, fleet, roster, estimate, health, remembered, slow_start, delay, operator, retry, scale,
//!           stats, batch, time, rng, dns, access, aged, proxy_protocol }
//! io -> { batch, time }
//! lab -> { role, wire, select, health, scale, service, batch, rng, time, waiting }
//! handover -> { state_dir, time }
//! doctor -> { config, io, batch, time }
//! ```
//!
//! * [`role`]s are state machines: no sockets, clocks, threads or random sources of their own.
//! * [`io`] knows no frames; [`select`] knows no sockets; [`wire`] knows neither.
//! * `unsafe` lives in `io::{sys, cmsg, sockaddr, sender, mmsg, uring}` only.
//!
//! `docs/ARCHITECTURE.md` has the reasons.

pub mod admin;
pub mod base;
pub mod client;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod io;
pub mod lab;
pub mod load;
pub mod os;
pub mod pool;
pub mod report;
pub mod role;
pub mod server;
pub mod supervise;
pub mod wire;

/// The README's Rust is compiled with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use client::Client;
pub use server::Server;
