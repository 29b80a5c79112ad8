//! The live table of `lbd up`.

use std::fmt::Write;
use std::io::IsTerminal;

use lbd::admin::status::Status;
use lbd::daemon::client::Summary;
use lbd::os::terminal::print;

/// The balancer's figures as rows, one a server, and a line of totals.
pub fn render(status: &Status, seconds: u64, clients: u32) -> String {
    let mut out = String::new();
    let mut row = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("a string takes everything");
    row(format_args!(
        "{:>6}  {:<9} {:>6} {:>10} {:>9} {:>9} {:>9}",
        "server", "state", "queue", "served", "per s", "p50", "p99"
    ));
    for s in &status.servers {
        let (p50, p99) = (milliseconds(s.latency_us_p50), milliseconds(s.latency_us_p99));
        row(format_args!(
            "{:>6}  {:<9} {:>6} {:>10} {:>9.0} {p50:>9} {p99:>9}",
            s.id, s.state, s.queue, s.answered, s.rate
        ));
    }
    let (p50, p99) = (milliseconds(status.latency_us_p50), milliseconds(status.latency_us_p99));
    let queue: u64 = status.servers.iter().map(|s| s.queue).sum();
    let up = status.servers.iter().filter(|s| s.state == "up").count();
    row(format_args!(
        "{:>6}  {:<9} {queue:>6} {:>10} {:>9.0} {p50:>9} {p99:>9}",
        "all",
        format!("{up} up"),
        status.answered,
        status.rate
    ));
    let busy = status.busy_no_server + status.busy_shed;
    let dropped = status.drops.values().sum::<u64>() + status.kernel_drops + status.send_drops;
    row(format_args!(
        "{seconds:>4} s, {clients} clients, {} requests, {busy} busy, {dropped} dropped",
        status.requests
    ));
    out
}

fn milliseconds(micros: u64) -> String {
    if micros == 0 { "-".to_owned() } else { format!("{:.2} ms", micros as f64 / 1e3) }
}

/// Shows a table: in place of the last one on a terminal, below it anywhere else. False if nobody reads it any more.
pub fn show(text: &str) -> std::io::Result<bool> {
    if std::io::stdout().is_terminal() {
        // Home, then each line cleared to its end, then everything below.
        print(format_args!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
    } else {
        print(format_args!("{text}\n"))
    }
}

/// What all clients together did.
pub fn summary(total: &Summary, clients: u32, duration_s: f64) -> String {
    let Summary { sent, answered, retried, refused, busy, lost, .. } = total;
    format!(
        "summary: {clients} clients, {duration_s:.1} s: {sent} requests sent, {answered} answered, {retried} retried, \
         {refused} refused, {busy} busy, {lost} lost"
    )
}
