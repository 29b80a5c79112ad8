//! One reader of values for all sections: numbers, durations, sizes, names, addresses, with their ranges; and
//! errors that name file, line, key and remedy.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::ConfigError;
use super::document::{Document, shortened};
use super::raw::Text;
use crate::base::duration::exact;
use crate::io::IoChoice;
use crate::pool::members::WORKERS_MAX;
use crate::pool::select::PolicyKind;
use crate::pool::waiting::{self, Limit};

/// The highest concurrency limit of a server.
const OUTSTANDING_MAX: u32 = 1_000_000;
/// Default capacity of the pending queue, in requests.
const WAITING_MAX: usize = 4_096;

/// The text of a configuration with its file: makes values, and errors with their position.
pub struct Reader<'a> {
    /// The file, for errors.
    pub file: Option<&'a Path>,
    /// The text; `None` = the one pool comes from arguments.
    pub document: Option<Document<'a>>,
}

/// A value, or what is wrong with it.
pub type Read<T> = Result<T, ConfigError>;

impl Reader<'_> {
    /// An error at a key; a key that is not written has the line of what is around it.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.map(Path::to_owned),
            line: self.document.as_ref().and_then(|document| document.line_around(key)),
            key: self.named(key),
            problem: problem.into(),
        }
    }

    /// An error that quotes the text of a value.
    pub fn refuse(&self, key: &str, text: &str, problem: impl std::fmt::Display) -> ConfigError {
        self.error(key, format!("\"{}\" {problem}", shortened(text)))
    }

    /// The line of a key; `None` if it is not written.
    pub fn line(&self, key: &str) -> Option<usize> {
        self.document.as_ref()?.line(key)
    }

    /// A key as the file or the arguments name it.
    pub fn named(&self, key: &str) -> String {
        if self.document.is_none() { argument(key) } else { key.to_owned() }
    }

    /// An error about several keys, with the position of the last one in the file.
    pub fn error_among<K: AsRef<str>>(&self, keys: &[K], problem: impl Into<String>) -> ConfigError {
        let last = keys.iter().map(AsRef::as_ref).max_by_key(|key| self.line(key));
        self.error(last.unwrap_or_default(), problem)
    }

    pub fn number<T>(&self, key: &str, value: &Option<Text>, default: T, range: RangeInclusive<T>) -> Read<T>
    where
        T: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let Some(Text(text)) = value else { return Ok(default) };
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            let whole = if "0.5".parse::<T>().is_ok() { "" } else { "whole " };
            let (from, to) = (range.start(), range.end());
            self.refuse(key, text, format_args!("is not a {whole}number from {from} to {to}"))
        })
    }

    /// Milliseconds, or a duration with its unit.
    pub fn duration(
        &self,
        key: &str,
        value: &Option<Text>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Read<Duration> {
        let Some(Text(text)) = value else { return Ok(default) };
        let duration = match text.parse::<f64>() {
            Ok(ms) => Duration::try_from_secs_f64(ms / 1e3).ok(),
            Err(_) => humantime::parse_duration(text).ok(),
        };
        duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
            let (from, to) = (exact(*range.start()), exact(*range.end()));
            let remedy = "write milliseconds, or a unit as in 10ms";
            self.refuse(key, text, format_args!("is not a duration from {from} to {to}; {remedy}"))
        })
    }

    /// A size in bytes, or with a unit.
    pub fn bytes(&self, key: &str, value: &Option<Text>, default: u64) -> Read<u64> {
        let Some(Text(text)) = value else { return Ok(default) };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim();
        let unit = match text[digits.len()..].trim() {
            "" | "B" => Some(1),
            "kB" | "KB" => Some(1_000),
            "MB" => Some(1_000_000),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            _ => None,
        };
        let bytes = digits.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
        bytes.filter(|n| (10_000..=10_000_000_000).contains(n)).ok_or_else(|| {
            self.refuse(key, text, "is not a size from 10kB to 10000MB; write bytes, or a unit as in 10MB")
        })
    }

    /// One of a few names.
    pub fn one_of<'t>(&self, key: &str, value: &'t Option<String>, names: &[&'t str]) -> Read<&'t str> {
        let value = value.as_deref().unwrap_or(names[0]);
        if names.contains(&value) {
            return Ok(value);
        }
        Err(self.refuse(key, value, format_args!("is unknown; use {}", names.join(" or "))))
    }

    pub fn ip(&self, key: &str, value: &Option<String>) -> Read<IpAddr> {
        let Some(text) = value else { return Ok(Ipv4Addr::LOCALHOST.into()) };
        let problem = "is not an IP address; write one such as 127.0.0.1 or ::1";
        text.trim().parse().map_err(|_| self.refuse(key, text, problem))
    }

    pub fn port(&self, key: &str, value: &Option<Text>, default: u16) -> Read<u16> {
        self.number(key, value, default, 1..=65_535)
    }

    pub fn ports(
        &self,
        section: &str,
        start: &Option<Text>,
        end: &Option<Text>,
        default: Range<u16>,
    ) -> Read<Range<u16>> {
        let [start_key, end_key] = range_keys(section);
        let first = self.port(&start_key, start, default.start)?;
        let end = self.port(&end_key, end, default.end)?;
        if end <= first {
            let problem = format!(
                "port range {first}..{end} is empty; the end is exclusive and must be greater than the start"
            );
            return Err(self.error_among(&[start_key, end_key], problem));
        }
        Ok(first..end)
    }

    pub fn workers(&self, key: &str, value: &Option<Text>) -> Read<usize> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        self.number(key, value, processors, 1..=WORKERS_MAX)
    }

    pub fn policy(&self, key: &str, value: &Option<String>) -> Read<PolicyKind> {
        let Some(name) = value else { return Ok(PolicyKind::default()) };
        shortened(name.trim()).parse().map_err(|e| self.error(key, format!("{e}")))
    }

    /// A concurrency limit, or auto.
    pub fn limit(&self, key: &str, value: &Option<Text>) -> Read<Option<Limit>> {
        match value {
            None => Ok(None),
            Some(Text(text)) if text == "auto" => Ok(Some(Limit::Auto)),
            Some(Text(text)) => match text.parse() {
                Ok(n @ 1..=OUTSTANDING_MAX) => Ok(Some(Limit::Fixed(n))),
                _ => {
                    let range = format_args!("a whole number from 1 to {OUTSTANDING_MAX}");
                    Err(self.refuse(key, text, format_args!("is neither {range} nor \"auto\"")))
                }
            },
        }
    }

    pub fn waiting_max(&self, key: &str, value: &Option<Text>) -> Read<usize> {
        self.number(key, value, WAITING_MAX, 0..=waiting::PENDING_MAX)
    }

    pub fn io(&self, key: &str, value: &Option<String>) -> Read<IoChoice> {
        let Some(name) = value else { return Ok(IoChoice::default()) };
        name.parse().map_err(|remedy: String| self.refuse(key, name, format_args!("is unknown; {remedy}")))
    }
}

/// The keys of a port range.
pub fn range_keys(section: &str) -> [String; 2] {
    ["start", "end"].map(|which| format!("{section}.port_range_{which}"))
}

/// The argument that stands for a key of the one pool, such as `--server` for `pools[0].servers[1]`.
fn argument(key: &str) -> String {
    let key = key.strip_prefix("pools[0].").unwrap_or(key);
    let name = key.split('[').next().unwrap_or(key);
    format!("--{}", if name == "servers" { "server" } else { name })
}
