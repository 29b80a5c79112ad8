//! How servers are judged: the keys that every pool's `health` has.

use std::time::Duration;

use super::raw::RawRules;
use super::reader::{Read, Reader};
use crate::pool::health::Rules;

/// The longest hold-down time.
const HOLD_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The slowest start.
const SLOW_START_MAX: Duration = Duration::from_secs(600);

impl Reader<'_> {
    /// Reads the keys of the section at this key; `default` for those that are not written.
    pub(super) fn rules(&self, at: &str, raw: &RawRules, default: Rules) -> Read<Rules> {
        let key = |name: &str| format!("{at}.{name}");
        let time = |name: &str, value, default, longest| {
            self.duration(&key(name), value, default, Duration::ZERO..=longest)
        };
        Ok(Rules {
            rise: self.number(&key("rise"), &raw.rise, default.rise, 1..=100)?,
            fall: self.number(&key("fall"), &raw.fall, default.fall, 1..=100)?,
            down_max: self.number(&key("down_max"), &raw.down_max, default.down_max, 0.0..=1.0)?,
            hold_down_max: time("hold_down_max", &raw.hold_down_max, default.hold_down_max, HOLD_MAX)?,
            slow_start: time("slow_start", &raw.slow_start, default.slow_start, SLOW_START_MAX)?,
        })
    }
}
