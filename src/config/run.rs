//! Servers that lbd itself runs: the keys that `server` and `pools[].run` have in common.

use std::ops::Range;
use std::time::Duration;

use super::document::shortened;
use super::raw::{RawRun, RawServer, Text, Words};
use super::{Read, Reader, range_keys};
use crate::pool::autoscale::Policy;
use crate::supervise::servers::Bounds;

/// The most servers of one pool.
const SERVERS_MAX: u32 = 4_096;

/// The scaling of a native pool, as the defaults say it.
pub(super) const POLICY: Policy = Policy {
    threshold: 5.0,
    grow_after: Duration::from_millis(500),
    shrink_after: Duration::from_secs(3),
    grow_cool_down: Duration::from_secs(1),
    shrink_cool_down: Duration::from_secs(1),
    grow_max: None,
    shrink_max: 1,
    min: 1,
    max: 16,
};

/// Servers that the controller runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// To begin with.
    pub count: u32,
    /// Their ports.
    pub ports: Range<u16>,
    /// The id of the first.
    pub start_id: u32,
    /// What is started; `None` = `lbd server`.
    pub command: Option<Vec<String>>,
    /// How many there may be, and when there shall be others.
    pub scale: Policy,
}

impl Run {
    /// The same for who starts them. A server is left out for `leave` at most before it is stopped.
    pub fn bounds(&self, leave: Option<Duration>) -> Bounds {
        let Policy { min, max, .. } = self.scale;
        Bounds { count: self.count, min, max, start_id: self.start_id, ports: self.ports.clone(), leave }
    }
}

/// The keys as they are written, with where they stand.
pub(super) struct Written<'a> {
    /// The section.
    pub at: &'a str,
    pub count: &'a Option<Text>,
    pub port_range_start: &'a Option<Text>,
    pub port_range_end: &'a Option<Text>,
    pub start_id: &'a Option<Text>,
    pub command: &'a Option<Words>,
    pub min: &'a Option<Text>,
    pub max: &'a Option<Text>,
    /// With its whole key.
    pub threshold: (&'a str, &'a Option<Text>),
    pub grow_after: &'a Option<Text>,
    pub shrink_after: &'a Option<Text>,
    /// The default of the two that follow.
    pub cool_down: &'a Option<Text>,
    pub grow_cool_down: &'a Option<Text>,
    pub shrink_cool_down: &'a Option<Text>,
    pub grow_max: &'a Option<Text>,
    pub shrink_max: &'a Option<Text>,
}

/// What a section does not say itself.
pub(super) struct Defaults<'a> {
    /// Ports, if they need not be written.
    pub ports: Range<u16>,
    pub start_id: u32,
    /// Servers that there is room for, and the key that says so.
    pub room: (u32, &'a str),
    /// `grow_after`, if it need not be written, and the least of it and `shrink_after`.
    pub grow_after: [Duration; 2],
}

impl<'a> Written<'a> {
    pub fn server(raw: &'a RawServer, threshold: &'a Option<Text>) -> Self {
        Written {
            at: "server",
            count: &raw.count,
            port_range_start: &raw.port_range_start,
            port_range_end: &raw.port_range_end,
            start_id: &raw.start_id,
            command: &raw.command,
            min: &raw.min,
            max: &raw.max,
            threshold: ("load_balancer.server_scaling_threshold", threshold),
            grow_after: &raw.grow_after,
            shrink_after: &raw.shrink_after,
            cool_down: &raw.cool_down,
            grow_cool_down: &raw.grow_cool_down,
            shrink_cool_down: &raw.shrink_cool_down,
            grow_max: &raw.grow_max,
            shrink_max: &raw.shrink_max,
        }
    }

    pub fn pool(raw: &'a RawRun, at: &'a str, threshold_key: &'a str) -> Self {
        Written {
            at,
            count: &raw.count,
            port_range_start: &raw.port_range_start,
            port_range_end: &raw.port_range_end,
            start_id: &raw.start_id,
            command: &raw.command,
            min: &raw.min,
            max: &raw.max,
            threshold: (threshold_key, &raw.threshold),
            grow_after: &raw.grow_after,
            shrink_after: &raw.shrink_after,
            cool_down: &None,
            grow_cool_down: &raw.grow_cool_down,
            shrink_cool_down: &raw.shrink_cool_down,
            grow_max: &raw.grow_max,
            shrink_max: &raw.shrink_max,
        }
    }
}

impl Reader<'_> {
    pub(super) fn run(&self, raw: &Written<'_>, defaults: Defaults<'_>) -> Read<Run> {
        let Written { at, .. } = *raw;
        let key = |name: &str| format!("{at}.{name}");
        let [count_key, min_key, max_key] = ["count", "min", "max"].map(key);
        let ports = self.ports(at, raw.port_range_start, raw.port_range_end, defaults.ports)?;
        let min_written = self.number(&min_key, raw.min, 0, 0..=SERVERS_MAX)?;
        let count = self.number(&count_key, raw.count, min_written.max(1), 0..=SERVERS_MAX)?;
        let min = if raw.min.is_some() { min_written } else { count.min(1) };
        // Without `max` the pool may grow to 16, as far as there is room.
        let (room, room_key) = defaults.room;
        let fits = (ports.len() as u32).min(room);
        let max = self.number(&max_key, raw.max, count.max(fits.min(16)), 1..=SERVERS_MAX)?;
        if min > max {
            let problem =
                format!("{min_key} = {min} is more than {max_key} = {max}; lower it, or raise that");
            return Err(self.error_among(&[&min_key, &max_key], problem));
        }
        if !(min..=max).contains(&count) {
            let problem =
                format!("{count_key} = {count} is not within {min_key} = {min} and {max_key} = {max}");
            return Err(self.error_among(&[&count_key, &min_key, &max_key], problem));
        }
        if max as usize > ports.len() {
            let n = ports.len();
            let problem =
                format!("{max} servers do not fit into {n} ports; widen the range, or lower the number");
            let [start, end] = range_keys(at);
            return Err(self.error_among(&[&max_key, &count_key, &start, &end], problem));
        }
        if max > room {
            let problem =
                format!("{max} servers do not fit into {room_key} = {room}; raise that, or lower the number");
            return Err(self.error_among(&[&max_key, &count_key, room_key], problem));
        }
        let ms = Duration::from_millis;
        let day = ms(86_400_000);
        let time = |name: &str, value, default| self.duration(&key(name), value, default, ms(10)..=day);
        let [grow_after, least] = defaults.grow_after;
        let window = |name: &str, value, default| self.duration(&key(name), value, default, least..=day);
        let step = |name: &str, value| self.number(&key(name), value, 1, 1..=SERVERS_MAX);
        let (threshold_key, threshold) = raw.threshold;
        let cool_down = time("cool_down", raw.cool_down, ms(1_000))?;
        Ok(Run {
            count,
            ports,
            start_id: self.number(&key("start_id"), raw.start_id, defaults.start_id, 0..=u32::MAX / 2)?,
            command: match raw.command {
                None => None,
                Some(words) => Some(self.command(&key("command"), words)?),
            },
            scale: Policy {
                threshold: self.number(threshold_key, threshold, 5.0, 0.01..=1e6)?,
                grow_after: window("grow_after", raw.grow_after, grow_after)?,
                shrink_after: window("shrink_after", raw.shrink_after, ms(3_000))?,
                grow_cool_down: time("grow_cool_down", raw.grow_cool_down, cool_down)?,
                shrink_cool_down: time("shrink_cool_down", raw.shrink_cool_down, cool_down)?,
                grow_max: match raw.grow_max {
                    None => None,
                    written => Some(step("grow_max", written)?),
                },
                shrink_max: step("shrink_max", raw.shrink_max)?,
                min,
                max,
            },
        })
    }

    fn command(&self, key: &str, words: &Words) -> Read<Vec<String>> {
        let refuse = |problem: String| Err(self.error(key, problem));
        let words: Vec<String> = match words {
            Words::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
            Words::List(words) => words.clone(),
        };
        if words.first().is_none_or(String::is_empty) {
            return refuse("there is no program in it; remove the key, or name one".to_owned());
        }
        for word in &words {
            if let Some(unknown) = placeholders(word).find(|name| !PLACEHOLDERS.contains(name)) {
                let unknown = shortened(unknown);
                return refuse(format!(
                    "{{{unknown}}} is no placeholder; use {{id}}, {{port}} or {{config}}"
                ));
            }
        }
        if !words.iter().any(|word| word.contains("{port}")) {
            return refuse("{port} is missing; without it every server would take the same port".to_owned());
        }
        Ok(words)
    }
}

/// What is filled in in a command.
const PLACEHOLDERS: [&str; 3] = ["id", "port", "config"];

/// The `{name}`s in a word; braces around anything but lower-case letters are left alone.
fn placeholders(word: &str) -> impl Iterator<Item = &str> {
    let after_braces = word.split('{').skip(1);
    let names = after_braces.filter_map(|rest| rest.split_once('}')).map(|(name, _)| name);
    names.filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
}
