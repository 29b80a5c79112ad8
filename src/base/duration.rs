//! How durations that were set are printed, everywhere the same: `250ms`, `1s 500ms`, `5m`, as configuration
//! and arguments take them. Measured times are rounded; their form is in `bin/lbd/units.rs`.

use std::fmt::Display;
use std::time::Duration;

/// The exact duration in the form that `config.json` and arguments read.
pub fn exact(duration: Duration) -> impl Display {
    humantime::format_duration(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_again() {
        for (text, duration) in [
            ("0s", Duration::ZERO),
            ("250ms", Duration::from_millis(250)),
            ("1s 500ms", Duration::from_millis(1_500)),
            ("5m", Duration::from_secs(300)),
            ("1day", Duration::from_secs(86_400)),
        ] {
            assert_eq!(exact(duration).to_string(), text);
            assert_eq!(humantime::parse_duration(text), Ok(duration));
        }
    }
}
