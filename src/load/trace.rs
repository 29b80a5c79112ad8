//! Requests at the moments that a file lists.

use std::path::Path;
use std::time::Duration;

use crate::io::PAYLOAD_MAX;

/// The latest moment, in seconds: 100 days.
const AT_MAX: f64 = 8_640_000.0;
/// Size of a request whose line has none.
const UNSAID: u32 = u32::MAX;

/// Moments in order, with optional sizes.
///
/// The file is text with one line per request: seconds since the start, and optionally the payload size in
/// bytes after a space. Lines are in ascending order of time. Empty lines and text after `#` are ignored.
///
/// ```text
/// # seconds bytes
/// 0.000125 64
/// 0.000310 512
/// 0.000310
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Nanoseconds since the start.
    at: Box<[u64]>,
    payloads: Box<[u32]>,
}

impl Trace {
    /// Reads a file. The error names the file and the line.
    pub fn load(path: &Path) -> Result<Trace, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the trace {}: {error}", path.display()))?;
        Trace::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// Parses the text of a file. The error names the line.
    pub fn parse(text: &str) -> Result<Trace, String> {
        let (mut at, mut payloads) = (vec![], vec![]);
        for (line, number) in text.lines().zip(1..) {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(word) = words.next() else { continue };
            let seconds = word.parse().ok().filter(|seconds| (0.0..=AT_MAX).contains(seconds));
            let seconds: f64 = seconds.ok_or_else(|| {
                format!("line {number}: `{word}` must be a number of seconds from 0 to {AT_MAX}")
            })?;
            let nanos = (seconds * 1e9).round() as u64;
            if at.last().is_some_and(|last| nanos < *last) {
                return Err(format!(
                    "line {number}: {word} is earlier than the previous line; sort the lines"
                ));
            }
            let payload = match words.next() {
                None => UNSAID,
                Some(word) => {
                    word.parse().ok().filter(|bytes| *bytes as usize <= PAYLOAD_MAX).ok_or_else(|| {
                        format!("line {number}: `{word}` must be a number of bytes from 0 to {PAYLOAD_MAX}")
                    })?
                }
            };
            if let Some(word) = words.next() {
                return Err(format!("line {number}: unexpected `{word}`; a line is: SECONDS [BYTES]"));
            }
            at.push(nanos);
            payloads.push(payload);
        }
        match at.is_empty() {
            true => Err("no request found; a line is: SECONDS [BYTES]".to_owned()),
            false => Ok(Trace { at: at.into(), payloads: payloads.into() }),
        }
    }

    /// When a request should leave, in nanoseconds after the start; `None` after the last one.
    pub fn at(&self, index: usize) -> Option<u64> {
        self.at.get(index).copied()
    }

    /// Payload size of a request in bytes, if its line has one.
    pub fn payload(&self, index: usize) -> Option<u32> {
        self.payloads.get(index).copied().filter(|bytes| *bytes != UNSAID)
    }

    /// Largest payload size of all lines that have one, in bytes.
    pub fn payload_max(&self) -> Option<u32> {
        self.payloads.iter().copied().filter(|bytes| *bytes != UNSAID).max()
    }

    /// Whether a line has a payload size of 0.
    pub fn has_empty(&self) -> bool {
        self.payloads.contains(&0)
    }

    /// Number of requests that leave at `from` or later and before `to`, after the start.
    pub fn count(&self, from: Duration, to: Duration) -> usize {
        let index = |end: Duration| self.at.partition_point(|at| Duration::from_nanos(*at) < end);
        index(to).saturating_sub(index(from))
    }

    /// When the last request leaves, after the start.
    pub fn last(&self) -> Duration {
        Duration::from_nanos(self.at.last().copied().unwrap_or(0))
    }

    /// Maximum requests within one second.
    pub fn busiest_second(&self) -> usize {
        let mut first = 0;
        let in_second = |(index, at): (usize, &u64)| {
            while self.at[first] + 1_000_000_000 < *at {
                first += 1;
            }
            index - first + 1
        };
        self.at.iter().enumerate().map(in_second).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_moments_and_sizes_and_the_rest_is_ignored() {
        let trace = Trace::parse("# a comment\n0 64\n\n  0.25   512 # more\n0.25\n1e1 0\n").unwrap();
        assert_eq!(*trace.at, [0, 250_000_000, 250_000_000, 10_000_000_000]);
        let payloads: Vec<_> = (0..5).map(|index| trace.payload(index)).collect();
        assert_eq!(payloads, [Some(64), Some(512), None, Some(0), None]);
        assert_eq!((trace.payload_max(), trace.last()), (Some(512), Duration::from_secs(10)));
        let ms = Duration::from_millis;
        let counts =
            [(0, 1_000), (250, 10_000), (250, 10_001), (251, 99_000)].map(|(a, b)| trace.count(ms(a), ms(b)));
        assert_eq!(counts, [3, 2, 3, 1]);
        assert_eq!(trace.busiest_second(), 3);
    }

    #[test]
    fn a_mistake_is_named_by_its_line() {
        for (text, named) in [
            ("", "no request"),
            ("# nothing\n\n", "no request"),
            ("0\nfast\n", "line 2: `fast`"),
            ("-1", "line 1: `-1`"),
            ("inf", "line 1: `inf`"),
            ("nan", "line 1: `nan`"),
            ("1\n\n0.5", "line 3: 0.5 is earlier"),
            ("1 65508", "line 1: `65508`"),
            ("1 -3", "line 1: `-3`"),
            ("1 2 3", "line 1: unexpected `3`"),
        ] {
            let error = Trace::parse(text).unwrap_err();
            assert!(error.contains(named), "{text:?}: {error}");
        }
        let error = Trace::load("no/such/trace".as_ref()).unwrap_err();
        assert!(error.contains("no/such/trace"), "{error}");
    }
}
