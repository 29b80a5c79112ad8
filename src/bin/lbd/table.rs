//! The live table of `lbd up`.

use std::fmt::Write;
use std::io::IsTerminal;

use lbd::admin::status::PoolStatus;
use lbd::daemon::client::Summary;
use lbd::os::terminal::print;

use crate::units::{count, latency, span};

/// The native pool as rows, one per server, and a line of totals.
pub fn render(pool: &PoolStatus, seconds: u64, clients: u32) -> String {
    let mut out = String::new();
    let mut row = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("a string takes everything");
    let per_second = |rate: f64| count(rate.max(0.0).round() as u64);
    row(format_args!(
        "{:>6}  {:<9} {:>6} {:>10} {:>9} {:>9} {:>9}",
        "server", "state", "queue", "served", "per s", "p50", "p99"
    ));
    for s in &pool.servers {
        let (p50, p99) = (latency(s.latency_us_recent.p50), latency(s.latency_us_recent.p99));
        let (queue, served, rate) = (count(s.queue), count(s.answered), per_second(s.rate));
        row(format_args!("{:>6}  {:<9} {queue:>6} {served:>10} {rate:>9} {p50:>9} {p99:>9}", s.id, s.state));
    }
    let (p50, p99) = (latency(pool.latency_us_recent.p50), latency(pool.latency_us_recent.p99));
    let queue = count(pool.servers.iter().map(|s| s.queue).sum());
    let (up, served, rate) = (format!("{} up", pool.up()), count(pool.answered), per_second(pool.rate));
    row(format_args!("{:>6}  {up:<9} {queue:>6} {served:>10} {rate:>9} {p50:>9} {p99:>9}", "all"));
    let [requests, failed, dropped] = [pool.received, pool.failed(), pool.all_dropped()].map(count);
    let time = span(Some(seconds as f64));
    row(format_args!("{time}, {clients} clients, {requests} requests, {failed} failed, {dropped} dropped"));
    out
}

/// Prints a table: on a terminal in place of the last one, anywhere else below it. False if standard output
/// is closed.
pub fn show(text: &str) -> std::io::Result<bool> {
    if std::io::stdout().is_terminal() {
        // Home, then each line cleared to its end, then everything below.
        print(format_args!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
    } else {
        print(format_args!("{text}\n"))
    }
}

/// Totals of all clients together.
pub fn summary(total: &Summary, clients: u32, duration_s: f64) -> String {
    let Summary { sent, answered, retried, refused, busy, lost, .. } = total;
    format!(
        "summary: {clients} clients, {duration_s:.1} s: {sent} requests sent, {answered} answered, \
         {retried} retried, {refused} refused, {busy} busy, {lost} lost"
    )
}
