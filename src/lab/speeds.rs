//! Speeds of the servers over time.

use std::ops::Range;
use std::str::FromStr;

use crate::base::time::Instant;

/// Servers of the same speed, written `COUNTxSPEED`. At speed 2, a request takes half its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Number of servers.
    pub count: usize,
    /// Speed; 1 is normal.
    pub speed: f64,
}

/// A time in which some servers are slower, written `COUNTxFACTOR`, `COUNTxFACTOR@FROM` or
/// `COUNTxFACTOR@FROM..TO`. Requests that the first `count` servers start in that time take `factor`
/// times as long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spell {
    /// Number of servers, from the first one.
    pub count: usize,
    /// Factor of the service time.
    pub factor: f64,
    /// Start, relative to the first request of the trace.
    pub from: Instant,
    /// End; `None`: permanently.
    pub until: Option<Instant>,
}

impl Spell {
    fn covers(&self, server: usize, at: Instant) -> bool {
        server < self.count && at >= self.from && self.until.is_none_or(|until| at < until)
    }
}

/// The text is neither a group of servers nor a spell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSpeed {
    /// Not a group.
    #[error(
        "\"{0}\" is no group of servers; use COUNTxSPEED, such as 4x2 for four servers of twice the speed"
    )]
    Group(String),
    /// Not a spell.
    #[error(
        "\"{0}\" is no slow time; use COUNTxFACTOR, COUNTxFACTOR@FROM or COUNTxFACTOR@FROM..TO, such as \
         1x5@2s..4s"
    )]
    Spell(String),
}

/// Parses `COUNTxNUMBER`; both must be above 0 and within sensible limits.
fn counted(text: &str) -> Option<(usize, f64)> {
    let (count, number) = text.split_once('x')?;
    let (count, number): (usize, f64) = (count.parse().ok()?, number.parse().ok()?);
    (count > 0 && (0.001..=1_000.0).contains(&number)).then_some((count, number))
}

fn moment(text: &str) -> Option<Instant> {
    humantime::parse_duration(text).ok().map(|after| Instant::ZERO + after)
}

impl FromStr for Group {
    type Err = BadSpeed;
    fn from_str(text: &str) -> Result<Self, BadSpeed> {
        let (count, speed) = counted(text).ok_or_else(|| BadSpeed::Group(text.to_owned()))?;
        Ok(Group { count, speed })
    }
}

impl FromStr for Spell {
    type Err = BadSpeed;
    fn from_str(text: &str) -> Result<Self, BadSpeed> {
        let read = || {
            let (who, when) = text.split_once('@').map_or((text, None), |(who, when)| (who, Some(when)));
            let (count, factor) = counted(who)?;
            let (from, until) = match when.map(|when| when.split_once("..").unwrap_or((when, ""))) {
                None => (Instant::ZERO, None),
                Some((from, "")) => (moment(from)?, None),
                Some((from, until)) => (moment(from)?, Some(moment(until)?)),
            };
            until.is_none_or(|until| until > from).then_some(Spell { count, factor, from, until })
        };
        read().ok_or_else(|| BadSpeed::Spell(text.to_owned()))
    }
}

/// The speeds of all servers.
#[derive(Clone, Debug, PartialEq)]
pub struct Speeds {
    usual: Box<[f64]>,
    spells: Vec<Spell>,
}

impl Speeds {
    /// Servers of the groups first; the others have speed 1.
    pub fn new(servers: usize, groups: &[Group], spells: &[Spell]) -> Self {
        let of_groups = groups.iter().flat_map(|group| std::iter::repeat_n(group.speed, group.count));
        let usual = of_groups.chain(std::iter::repeat(1.0)).take(servers).collect();
        Speeds { usual, spells: spells.to_vec() }
    }

    /// Number of servers.
    pub fn servers(&self) -> usize {
        self.usual.len()
    }

    /// Work of a server in one second, in seconds of work at speed 1.
    pub fn at(&self, server: usize, at: Instant) -> f64 {
        let spells = self.spells.iter().filter(|spell| spell.covers(server, at));
        self.usual[server] / spells.map(|spell| spell.factor).product::<f64>()
    }

    /// Work of all servers in one second at the start of the trace, in seconds of work at speed 1.
    pub fn capacity(&self) -> f64 {
        (0..self.servers()).map(|server| self.at(server, Instant::ZERO)).sum()
    }

    /// Time for work that a server starts at this moment, both in nanoseconds.
    pub fn time_for(&self, server: usize, work: u64, begins: Instant) -> u64 {
        (work as f64 / self.at(server, begins)) as u64
    }

    /// The moments at which any speed changes, in order.
    pub fn changes(&self) -> Vec<Instant> {
        let mut all: Vec<_> = self.spells.iter().flat_map(|s| [Some(s.from), s.until]).flatten().collect();
        all.sort();
        all.dedup();
        all.retain(|&at| at > Instant::ZERO);
        all
    }

    /// Indices of all servers.
    pub fn all(&self) -> Range<usize> {
        0..self.servers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn groups_come_first_and_the_rest_is_usual() {
        let speeds = Speeds::new(4, &["1x2".parse().unwrap(), "2x0.5".parse().unwrap()], &[]);
        assert_eq!(speeds.all().map(|s| speeds.at(s, at(0))).collect::<Vec<_>>(), [2.0, 0.5, 0.5, 1.0]);
        assert_eq!(speeds.capacity(), 4.0);
        assert_eq!(speeds.time_for(1, 1_000, at(0)), 2_000);
        assert_eq!(speeds.changes(), []);
    }

    #[test]
    fn a_spell_slows_the_first_servers_for_its_time() {
        let spells = ["1x5@2s..4s".parse().unwrap(), "2x2".parse().unwrap()];
        let speeds = Speeds::new(3, &[], &spells);
        let of = |server| [0, 2, 3, 4].map(|second| speeds.at(server, at(second)));
        assert_eq!((of(0), of(1), of(2)), ([0.5, 0.1, 0.1, 0.5], [0.5; 4], [1.0; 4]));
        assert_eq!(speeds.capacity(), 2.0, "the capacity at the start");
        assert_eq!(speeds.changes(), [at(2), at(4)]);
        let for_ever: Spell = "1x5@2s".parse().unwrap();
        assert_eq!((for_ever.from, for_ever.until), (at(2), None));
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "4", "x2", "0x2", "4x", "4x0", "4x-1", "4xfast", "1x1e9"] {
            let error = text.parse::<Group>().unwrap_err().to_string();
            assert!(error.contains("4x2") && error.contains(text), "{error}");
        }
        for text in ["1x5@", "1x5@x", "1x5@2s..1s", "1x5@..4s", "x5@1s"] {
            let error = text.parse::<Spell>().unwrap_err().to_string();
            assert!(error.contains("1x5@2s..4s") && error.contains(text), "{error}");
        }
    }
}
