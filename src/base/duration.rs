//! How durations are printed. Those that were set are printed exactly: `250ms`, `1s 500ms`, `5m`, as
//! configuration and arguments take them. Measured times are rounded: in log lines as here, in the output of
//! commands as in `bin/lbd/units.rs`.

use std::fmt::Display;
use std::time::Duration;

/// The exact duration in the form that `config.json` and arguments read.
pub fn exact(duration: Duration) -> impl Display {
    humantime::format_duration(duration)
}

/// A measured duration with three digits at most and without spaces: `250us`, `12.3ms`, `95s`, `12m5s`.
pub fn rounded(duration: Duration) -> impl Display {
    let nanos = duration.as_nanos() as f64;
    let short = |value: f64, unit: &str| {
        let digits = if value < 9.995 {
            2
        } else if value < 99.95 {
            1
        } else {
            0
        };
        let text = format!("{value:.digits$}");
        let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text}{unit}")
    };
    match nanos {
        ..999_500.0 => short(nanos / 1e3, "us"),
        ..999_500_000.0 => short(nanos / 1e6, "ms"),
        ..119_500_000_000.0 => short(nanos / 1e9, "s"),
        _ => {
            let seconds = duration.as_secs();
            format!("{}m{}s", seconds / 60, seconds % 60)
        }
    }
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

    #[test]
    fn measured_times_have_three_digits_at_most() {
        for (nanos, text) in [
            (0, "0us"),
            (1_234, "1.23us"),
            (999_499, "999us"),
            (12_345_678, "12.3ms"),
            (812_000_000, "812ms"),
            (999_600_000, "1s"),
            (1_500_000_000, "1.5s"),
            (95_040_000_000, "95s"),
            (725_900_000_000, "12m5s"),
        ] {
            assert_eq!(rounded(Duration::from_nanos(nanos)).to_string(), text);
        }
    }
}
