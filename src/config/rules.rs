//! How servers are judged: the keys that every pool's `health` has.

use std::time::Duration;

use super::raw::{RawHealth, RawRules, Text};
use super::{Read, Reader};
use crate::pool::health::Rules;

/// The keys as they are written.
pub(super) struct Written<'a> {
    rise: &'a Option<Text>,
    fall: &'a Option<Text>,
    down_max: &'a Option<Text>,
    hold_down_max: &'a Option<Text>,
    slow_start: &'a Option<Text>,
}

macro_rules! written {
    ($raw:ty) => {
        impl<'a> From<&'a $raw> for Written<'a> {
            fn from(raw: &'a $raw) -> Self {
                Written {
                    rise: &raw.rise,
                    fall: &raw.fall,
                    down_max: &raw.down_max,
                    hold_down_max: &raw.hold_down_max,
                    slow_start: &raw.slow_start,
                }
            }
        }
    };
}
written!(RawRules);
written!(RawHealth);

/// The longest time for which a server is kept away.
const HOLD_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The slowest start.
const SLOW_START_MAX: Duration = Duration::from_secs(600);

impl Reader<'_> {
    /// Reads the keys of the section at this key; `default` for those that are not there.
    pub(super) fn rules<'a>(&self, at: &str, written: impl Into<Written<'a>>, default: Rules) -> Read<Rules> {
        let key = |name: &str| format!("{at}.{name}");
        let written = written.into();
        let zero = Duration::ZERO;
        Ok(Rules {
            rise: self.number(&key("rise"), written.rise, default.rise, 1..=100)?,
            fall: self.number(&key("fall"), written.fall, default.fall, 1..=100)?,
            down_max: self.number(&key("down_max"), written.down_max, default.down_max, 0.0..=1.0)?,
            hold_down_max: self.duration(
                &key("hold_down_max"),
                written.hold_down_max,
                default.hold_down_max,
                zero..=HOLD_MAX,
            )?,
            slow_start: self.duration(
                &key("slow_start"),
                written.slow_start,
                default.slow_start,
                zero..=SLOW_START_MAX,
            )?,
        })
    }
}
