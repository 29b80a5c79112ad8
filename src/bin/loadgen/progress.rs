//! The progress line of a run.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lbd::base::duration::exact;
use lbd::load::{Counts, LiveCounts, UNBOUNDED};
use lbd::os::terminal::tell;
use lbd::report::chart::Numbers;

/// Interval of the lines when standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows the counts on standard error until dropped: a changing line on a terminal, otherwise one line
/// per second.
pub struct ProgressLine {
    target: SocketAddr,
    /// An error of the network was named.
    named: bool,
    warmup: Duration,
    duration: Duration,
    terminal: bool,
    started: Instant,
    last_at: Duration,
    last: LiveCounts,
}

impl ProgressLine {
    /// Starts the progress line of a run.
    pub fn new(target: SocketAddr, warmup: Duration, duration: Duration) -> Self {
        let terminal = std::io::stderr().is_terminal();
        ProgressLine {
            target,
            named: false,
            warmup,
            duration,
            terminal,
            started: Instant::now(),
            last_at: Duration::ZERO,
            last: LiveCounts::default(),
        }
    }

    /// Prints a permanent line.
    pub fn say(&self, text: std::fmt::Arguments<'_>) {
        tell(text);
    }

    /// Shows the newest counts.
    pub fn show(&mut self, live: LiveCounts) {
        if let Some(error) = live.errors.main().filter(|_| !self.named) {
            self.named = true;
            let begin = if self.terminal { "\r\x1b[K" } else { "" };
            tell(format_args!("{begin}loadgen: {}: {}", self.target, error.text()));
        }
        let at = self.started.elapsed();
        let due = at - self.last_at >= LINE_EVERY;
        if self.terminal || due {
            let text = match at.checked_sub(self.warmup) {
                None => format!("warm-up of {}: {} in flight", exact(self.warmup), live.in_flight),
                Some(measured) => {
                    let since = (&self.last.counts, at - self.last_at);
                    line(measured.min(self.duration), self.duration, &live, since)
                }
            };
            if self.terminal {
                let _ = write!(std::io::stderr(), "\r{text}\x1b[K");
            } else {
                tell(format_args!("{text}"));
            }
        }
        if due {
            (self.last_at, self.last) = (at, live);
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(at: Duration, duration: Duration, live: &LiveCounts, (last, time): (&Counts, Duration)) -> String {
    let LiveCounts { counts: Counts { sent, answered, busy, lost, late_sends, .. }, in_flight, .. } = live;
    let latency = live.last_second.map(|(p50, p99)| {
        let [p50, p99] = [p50, p99].map(|us| Numbers::Micros.write(us as f64));
        format!(", p50 {p50}, p99 {p99}")
    });
    let rate = |count: u64| if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() };
    let (sending, answering) = (rate(sent - last.sent), rate(answered - last.answered));
    let whole =
        if duration < UNBOUNDED { format!(" of {:.0}", duration.as_secs_f64()) } else { String::new() };
    format!(
        "{:.0}{whole} s: {sending:.0} sent/s, {answering:.0} answered/s, {answered} answered, {busy} busy, \
         {lost} lost, {late_sends} late, {in_flight} in flight{}",
        at.as_secs_f64(),
        latency.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_since_the_last_line() {
        let counts = Counts { sent: 5_000, answered: 4_000, ..Counts::default() };
        let live = LiveCounts { counts, in_flight: 7, ..LiveCounts::default() };
        let last = Counts { sent: 4_800, answered: 3_900, ..Counts::default() };
        let text =
            line(Duration::from_secs(5), Duration::from_secs(10), &live, (&last, Duration::from_secs(2)));
        assert_eq!(
            text,
            "5 of 10 s: 100 sent/s, 50 answered/s, 4000 answered, 0 busy, 0 lost, 0 late, 7 in flight"
        );
        let live = LiveCounts { last_second: Some((1_500, 20_000)), ..live };
        let text =
            line(Duration::from_secs(5), Duration::from_secs(10), &live, (&last, Duration::from_secs(2)));
        assert!(text.ends_with("7 in flight, p50 1.5 ms, p99 20 ms"), "{text}");
    }
}
