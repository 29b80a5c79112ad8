//! Output of `lbd ping`: a line per round trip, and a summary. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::probe::Trip;
use lbd::base::duration::exact;

/// A round trip as a line of text.
pub fn line(seq: u64, target: SocketAddr, timeout: Duration, trip: &Trip) -> String {
    match trip {
        Trip::Back { bytes, time, trouble } => {
            let trouble = trouble.as_ref().map_or(String::new(), |word| format!(" {word}"));
            format!("{bytes} bytes from {target}: seq={seq}{trouble} time={:.3} ms", ms(*time))
        }
        Trip::Lost => {
            format!("no response from {target}: seq={seq} after {}", exact(timeout))
        }
        Trip::Unreachable(why) => format!("unreachable {target}: seq={seq} {why}"),
    }
}

/// A round trip as a JSON object.
pub fn json(seq: u64, trip: &Trip) -> Value {
    match trip {
        Trip::Back { bytes, time, trouble } => json!({
            "seq": seq, "status": trouble.as_deref().unwrap_or("OK"), "bytes": bytes, "time_ms": ms(*time),
        }),
        Trip::Lost => json!({ "seq": seq, "status": "LOST" }),
        Trip::Unreachable(_) => json!({ "seq": seq, "status": "UNREACHABLE" }),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Statistics of all round trips. Only normal responses count for the times, since BUSY returns sooner
/// than work.
pub struct Stats {
    sent: u64,
    lost: u64,
    /// Number of refusals by name.
    troubles: BTreeMap<String, u64>,
    /// Round-trip times, in nanoseconds.
    times: Histogram<u64>,
    /// Sum and sum of squares of the times, in milliseconds.
    sums: (f64, f64),
    /// Exact minimum and maximum.
    ends: Option<(Duration, Duration)>,
}

impl Default for Stats {
    fn default() -> Self {
        let times = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("fixed bounds are valid");
        Stats { sent: 0, lost: 0, troubles: BTreeMap::new(), times, sums: (0.0, 0.0), ends: None }
    }
}

impl Stats {
    pub fn add(&mut self, trip: &Trip) {
        self.sent += 1;
        match trip {
            Trip::Lost | Trip::Unreachable(_) => self.lost += 1,
            Trip::Back { trouble: Some(word), .. } => *self.troubles.entry(word.clone()).or_default() += 1,
            Trip::Back { time, trouble: None, .. } => {
                self.times.saturating_record((time.as_nanos() as u64).max(1));
                self.sums = (self.sums.0 + ms(*time), self.sums.1 + ms(*time).powi(2));
                let (least, most) = self.ends.unwrap_or((*time, *time));
                self.ends = Some((least.min(*time), most.max(*time)));
            }
        }
    }

    /// Requests with any response, refusals included.
    pub fn came_back(&self) -> u64 {
        self.sent - self.lost
    }

    /// Mean and standard deviation, in milliseconds.
    fn mean_and_deviation(&self) -> (f64, f64) {
        let n = self.times.len().max(1) as f64;
        let mean = self.sums.0 / n;
        (mean, (self.sums.1 / n - mean * mean).max(0.0).sqrt())
    }

    /// A quantile, in milliseconds. The histogram rounds up by at most 0.1 %; the maximum caps the
    /// result.
    fn quantile(&self, quantile: f64) -> f64 {
        let most = self.ends.map_or(0.0, |(_, most)| ms(most));
        (self.times.value_at_quantile(quantile) as f64 / 1e6).min(most)
    }

    pub fn summary(&self, target: SocketAddr) -> String {
        let mut text = format!("--- {target} ---\n{} sent, {} answered", self.sent, self.times.len());
        for (word, n) in &self.troubles {
            write!(text, ", {n} {word}").expect("a string takes everything");
        }
        let loss = 100.0 * self.lost as f64 / self.sent.max(1) as f64;
        write!(text, ", {} lost ({loss:.1} %)", self.lost).expect("a string takes everything");
        if let Some((least, most)) = self.ends {
            let (mean, deviation) = self.mean_and_deviation();
            write!(
                text,
                "\nmin/avg/max/mdev = {:.3}/{mean:.3}/{:.3}/{deviation:.3} ms, p50 {:.3} ms, p99 {:.3} ms",
                ms(least),
                ms(most),
                self.quantile(0.5),
                self.quantile(0.99)
            )
            .expect("a string takes everything");
        }
        text
    }

    pub fn json(&self) -> Value {
        let times = self.ends.map(|(least, most)| {
            let (mean, deviation) = self.mean_and_deviation();
            json!({
                "min": ms(least), "avg": mean, "max": ms(most), "mdev": deviation,
                "p50": self.quantile(0.5), "p99": self.quantile(0.99),
            })
        });
        json!({ "summary": {
            "sent": self.sent, "answered": self.times.len(), "refused": self.troubles,
            "lost": self.lost, "time_ms": times,
        }})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 54001))
    }

    fn back(micros: u64, trouble: Option<&str>) -> Trip {
        Trip::Back { bytes: 256, time: Duration::from_micros(micros), trouble: trouble.map(str::to_owned) }
    }

    #[test]
    fn a_line_is_like_that_of_ping() {
        let of = |trip: &Trip| line(3, target(), Duration::from_secs(1), trip);
        assert_eq!(of(&back(213, None)), "256 bytes from 127.0.0.1:54001: seq=3 time=0.213 ms");
        assert_eq!(of(&back(90, Some("BUSY"))), "256 bytes from 127.0.0.1:54001: seq=3 BUSY time=0.090 ms");
        assert_eq!(of(&Trip::Lost), "no response from 127.0.0.1:54001: seq=3 after 1s");
        let refused = Trip::Unreachable("Connection refused".to_owned());
        assert_eq!(of(&refused), "unreachable 127.0.0.1:54001: seq=3 Connection refused");
        assert_eq!(json(3, &back(213, None))["status"], "OK");
        assert_eq!(json(3, &back(213, Some("BUSY")))["status"], "BUSY");
        assert_eq!(json(3, &Trip::Lost), json!({ "seq": 3, "status": "LOST" }));
    }

    #[test]
    fn a_summary_counts_everything_once_and_times_what_was_served() {
        let mut stats = Stats::default();
        for trip in [back(1_000, None), back(3_000, None), back(1, Some("BUSY")), Trip::Lost] {
            stats.add(&trip);
        }
        assert_eq!(stats.came_back(), 3);
        assert_eq!(
            stats.summary(target()),
            "--- 127.0.0.1:54001 ---\n4 sent, 2 answered, 1 BUSY, 1 lost (25.0 %)\n\
             min/avg/max/mdev = 1.000/2.000/3.000/1.000 ms, p50 1.000 ms, p99 3.000 ms"
        );
        let summary = &stats.json()["summary"];
        assert_eq!((&summary["sent"], &summary["refused"]["BUSY"]), (&json!(4), &json!(1)));
        assert_eq!(summary["time_ms"]["avg"], json!(2.0));
    }

    #[test]
    fn without_an_answer_there_are_no_times() {
        let mut stats = Stats::default();
        assert_eq!(stats.summary(target()), "--- 127.0.0.1:54001 ---\n0 sent, 0 answered, 0 lost (0.0 %)");
        stats.add(&Trip::Lost);
        assert_eq!(stats.came_back(), 0);
        assert_eq!(stats.json()["summary"]["time_ms"], Value::Null);
    }
}
