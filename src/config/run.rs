//! Replicas, the servers that the controller runs: the keys of `pools[].run` and of the section `server`.

use std::ops::Range;
use std::time::Duration;

use super::document::shortened;
use super::form::Form;
use super::raw::{RawRun, Words};
use super::reader::{Read, Reader, range_keys};
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

/// Replicas: servers that the controller runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Replicas at the start.
    pub count: u32,
    /// Ports of the replicas.
    pub ports: Range<u16>,
    /// Id of the first replica.
    pub start_id: u32,
    /// The program of each with its arguments; `None` = `lbd server`.
    pub command: Option<Vec<String>>,
    /// Limits of their number, and when it changes.
    pub scale: Policy,
}

impl Run {
    /// What supervision needs of it. A replica drains for at most `leave` before it is stopped; `None` = it
    /// is stopped at once.
    pub fn bounds(&self, leave: Option<Duration>) -> Bounds {
        let Policy { min, max, .. } = self.scale;
        Bounds { count: self.count, min, max, start_id: self.start_id, ports: self.ports.clone(), leave }
    }
}

/// Default ports of servers, where a section need not write them.
pub(super) const FIRST_PORTS: Range<u16> = 50_000..51_000;

/// What the place of the keys decides.
pub(super) struct Defaults<'a> {
    /// Default ports; `None` = they must be written.
    pub ports: Option<Range<u16>>,
    /// Whether the command may be left out.
    pub has_command: bool,
    /// Default id of the first server.
    pub start_id: u32,
    /// Capacity left for these servers, and the key that says so.
    pub room: (u32, &'a str),
    /// Default of `grow_after`, and the least value of it and `shrink_after`.
    pub grow_after: [Duration; 2],
}

impl Reader<'_> {
    /// Reads the keys of replicas: of `pools[].run`, or of the section `server`.
    pub(super) fn run(&self, form: Form, run: &RawRun, defaults: Defaults<'_>) -> Read<Run> {
        let raw = &run.replicas;
        let key = |name: &str| form.key(&format!("run.{name}"));
        let [count_key, min_key, max_key] = ["count", "min", "max"].map(key);
        let program = "the program, such as [\"serve\", \"--port\", \"{port}\"]";
        let has_ports = defaults.ports.is_some();
        for (name, is_given, example) in [
            ("command", raw.command.is_some() || defaults.has_command, program),
            ("port_range_start", raw.port_range_start.is_some() || has_ports, "the first port, such as 5310"),
            (
                "port_range_end",
                raw.port_range_end.is_some() || has_ports,
                "the port after the last one, such as 5342",
            ),
        ] {
            if !is_given {
                return Err(self.error(&key(name), format!("is missing; write {example}")));
            }
        }
        let at = form.key("run");
        let default_ports = defaults.ports.unwrap_or(1..2);
        let ports = self.ports(&at, &raw.port_range_start, &raw.port_range_end, default_ports)?;
        let min_written = self.number(&min_key, &raw.min, 0, 0..=SERVERS_MAX)?;
        let count = self.number(&count_key, &raw.count, min_written.max(1), 0..=SERVERS_MAX)?;
        let min = if raw.min.is_some() { min_written } else { count.min(1) };
        // Without `max` the pool may grow to 16, as far as there is room.
        let (room, room_key) = defaults.room;
        let fits = (ports.len() as u32).min(room);
        let max = self.number(&max_key, &raw.max, count.max(fits.min(16)), 1..=SERVERS_MAX)?;
        if min > max {
            let problem =
                format!("{min_key} = {min} is more than {max_key} = {max}; lower it, or raise that");
            return Err(self.error_among(&[min_key, max_key], problem));
        }
        if !(min..=max).contains(&count) {
            let problem =
                format!("{count_key} = {count} is not within {min_key} = {min} and {max_key} = {max}");
            return Err(self.error_among(&[count_key, min_key, max_key], problem));
        }
        if max as usize > ports.len() {
            let n = ports.len();
            let problem =
                format!("{max} servers do not fit into {n} ports; widen the range, or lower the number");
            let [start, end] = range_keys(&at);
            return Err(self.error_among(&[max_key, count_key, start, end], problem));
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
        let cool_down = time("cool_down", &raw.cool_down, ms(1_000))?;
        let command = raw.command.as_ref().map(|words| self.command(&key("command"), words));
        let grow_max = step("grow_max", &raw.grow_max)?;
        Ok(Run {
            count,
            ports,
            start_id: self.number(&key("start_id"), &raw.start_id, defaults.start_id, 0..=u32::MAX / 2)?,
            command: command.transpose()?,
            scale: Policy {
                threshold: self.number(&key("threshold"), &run.threshold, 5.0, 0.01..=1e6)?,
                grow_after: window("grow_after", &raw.grow_after, grow_after)?,
                shrink_after: window("shrink_after", &raw.shrink_after, ms(3_000))?,
                grow_cool_down: time("grow_cool_down", &raw.grow_cool_down, cool_down)?,
                shrink_cool_down: time("shrink_cool_down", &raw.shrink_cool_down, cool_down)?,
                grow_max: raw.grow_max.is_some().then_some(grow_max),
                shrink_max: step("shrink_max", &raw.shrink_max)?,
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
            return refuse("the list names no program; name one, or remove the key".to_owned());
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
            return refuse("{port} is missing; without it, all servers would take the same port".to_owned());
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
