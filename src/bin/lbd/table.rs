//! The live table of `lbd up`.

use lbd::admin::status::{PoolStatus, ServerStatus};
use lbd::daemon::client::Summary;
use lbd::os::terminal::{self, print};

use crate::units::{count, latency, span};

/// What `lbd up` shows: a heading, a row per server, and lines below.
pub struct Table {
    heading: String,
    rows: Vec<String>,
    below: Vec<String>,
}

/// The native pool as rows, one per server, and a line of totals.
pub fn render(pool: &PoolStatus, seconds: u64, clients: u32) -> Table {
    let per_second = |rate: f64| count(rate.max(0.0).round() as u64);
    let heading = format!(
        "{:>6}  {:<9} {:>6} {:>10} {:>9} {:>9} {:>9}",
        "server", "state", "queue", "served", "per s", "p50", "p99"
    );
    let row = |s: &ServerStatus| {
        let (p50, p99) = (latency(s.latency_us_recent.p50), latency(s.latency_us_recent.p99));
        let (queue, served, rate) = (count(s.queue), count(s.answered), per_second(s.rate));
        format!("{:>6}  {:<9} {queue:>6} {served:>10} {rate:>9} {p50:>9} {p99:>9}", s.id, s.state)
    };
    let (p50, p99) = (latency(pool.latency_us_recent.p50), latency(pool.latency_us_recent.p99));
    let queue = count(pool.servers.iter().map(|s| s.queue).sum());
    let (up, served, rate) = (format!("{} up", pool.up()), count(pool.answered), per_second(pool.rate));
    let [requests, failed, dropped] = [pool.received, pool.failed(), pool.all_dropped()].map(count);
    let time = span(Some(seconds as f64));
    let below = vec![
        format!("{:>6}  {up:<9} {queue:>6} {served:>10} {rate:>9} {p50:>9} {p99:>9}", "all"),
        format!("{time}, {clients} clients, {requests} requests, {failed} failed, {dropped} dropped"),
    ];
    Table { heading, rows: pool.servers.iter().map(row).collect(), below }
}

impl Table {
    /// Adds a line below the totals.
    pub fn add(&mut self, line: String) {
        self.below.push(line);
    }

    /// The text: for a terminal within its size, else complete.
    pub fn text(&self) -> String {
        self.fitted(terminal::size().map_or(usize::MAX, |(_, rows)| rows))
    }

    /// The text for a terminal with this many rows. Servers that have no room are counted instead.
    fn fitted(&self, rows: usize) -> String {
        // The last row stays empty: a newline there would scroll the heading away.
        let room = rows.saturating_sub(self.below.len() + 2);
        let shown = if self.rows.len() <= room { self.rows.len() } else { room.saturating_sub(1) };
        let hidden = self.rows.len() - shown;
        let more = (hidden > 0).then(|| format!("        {hidden} more servers; see lbd top"));
        let lines = std::iter::once(&self.heading).chain(&self.rows[..shown]).chain(&more).chain(&self.below);
        lines.map(|line| format!("{line}\n")).collect()
    }
}

/// Prints a text: on a terminal in place of the last one and cut to its size, anywhere else below the last
/// one. False if standard output is closed.
pub fn show(text: &str) -> std::io::Result<bool> {
    let Some((columns, rows)) = terminal::size() else { return print(format_args!("{text}\n")) };
    let lines = text.lines().take(rows.saturating_sub(1).max(1));
    let cut = lines.map(|line| line.chars().take(columns).collect::<String>() + "\x1b[K\n");
    // Home, then each line cleared to its end, then everything below.
    print(format_args!("\x1b[H{}\x1b[J", cut.collect::<String>()))
}

/// Totals of all clients together.
pub fn summary(total: &Summary, clients: u32, duration_s: f64) -> String {
    let Summary { sent, answered, retried, refused, busy, lost, .. } = total;
    format!(
        "summary: {clients} clients, {duration_s:.1} s: {sent} requests sent, {answered} answered, \
         {retried} retried, {refused} refused, {busy} busy, {lost} lost"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(servers: u32) -> Table {
        let server = |id| ServerStatus { id, state: "up".to_owned(), ..ServerStatus::default() };
        let mut table = render(
            &PoolStatus { servers: (0..servers).map(server).collect(), ..PoolStatus::default() },
            3,
            2,
        );
        table.add("dashboard on http://127.0.0.1:1/".to_owned());
        table
    }

    #[test]
    fn a_table_stays_within_the_terminal() {
        for servers in [0, 1, 5, 30, 300] {
            for rows in 7..60 {
                let text = table(servers).fitted(rows);
                assert!(text.lines().count() < rows, "{servers} servers, {rows} rows: {text}");
            }
        }
        let text = table(30).fitted(12);
        assert!(text.contains("     5  up") && !text.contains("     6  up"), "{text}");
        assert!(
            text.contains("24 more servers") && text.ends_with("dashboard on http://127.0.0.1:1/\n"),
            "{text}"
        );
    }

    #[test]
    fn without_a_terminal_a_table_is_complete() {
        let text = table(300).fitted(usize::MAX);
        assert_eq!(text.lines().count(), 1 + 300 + 3);
    }
}
