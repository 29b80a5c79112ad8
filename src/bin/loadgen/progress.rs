//! The line that shows a run under way.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use lbd::load::{Live, Progress};
use lbd::terminal::tell;

/// How often the figures are read, and how often they are shown where lines stay.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows the figures on standard error until the run is over: one line that changes on a terminal, a line a second
/// anywhere else.
pub fn show(progress: &Progress, warmup: Duration, duration: Duration, is_over: impl Fn() -> bool) {
    let terminal = std::io::stderr().is_terminal();
    let started = Instant::now();
    let (mut last_at, mut last) = (Duration::ZERO, Live::default());
    while !is_over() {
        std::thread::sleep(LOOK_EVERY);
        let (at, live) = (started.elapsed(), progress.read());
        let due = at - last_at >= LINE_EVERY;
        if terminal || due {
            let text = match at.checked_sub(warmup) {
                None => format!("warm-up of {warmup:?}: {} in flight", live.in_flight),
                Some(measured) => {
                    let since_last = (live.sent - last.sent, at - last_at);
                    line(measured.min(duration), duration, &live, since_last)
                }
            };
            if terminal {
                let _ = write!(std::io::stderr(), "\r{text}\x1b[K");
            } else {
                tell(format_args!("{text}"));
            }
        }
        if due {
            (last_at, last) = (at, live);
        }
    }
    if terminal {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

fn line(at: Duration, duration: Duration, live: &Live, (sent, time): (u64, Duration)) -> String {
    let Live { answered, busy, lost, late, in_flight, .. } = live;
    let rate = if time.is_zero() { 0.0 } else { sent as f64 / time.as_secs_f64() };
    format!(
        "{:.0} of {:.0} s: {rate:.0} sent/s, {answered} answered, {busy} busy, {lost} lost, {late} late, \
         {in_flight} in flight",
        at.as_secs_f64(),
        duration.as_secs_f64(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_since_the_last_line() {
        let live = Live { sent: 5_000, answered: 4_000, in_flight: 7, ..Live::default() };
        let text =
            line(Duration::from_secs(5), Duration::from_secs(10), &live, (200, Duration::from_secs(2)));
        assert_eq!(text, "5 of 10 s: 100 sent/s, 4000 answered, 0 busy, 0 lost, 0 late, 7 in flight");
    }
}
