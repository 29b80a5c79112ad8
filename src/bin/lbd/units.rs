//! Times and counts in few characters: one form of each for all commands.

/// Microseconds as a latency of three digits, such as `350 us`, `2.10 ms`, `12.0 ms`, `1.50 s`; `-` for no
/// data.
pub fn latency(micros: u64) -> String {
    let ms = micros as f64 / 1e3;
    match micros {
        0 => "-".to_owned(),
        1..1_000 => format!("{micros} us"),
        1_000..9_995 => format!("{ms:.2} ms"),
        9_995..99_950 => format!("{ms:.1} ms"),
        99_950..999_500 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1e3),
    }
}

/// A number, from ten thousand on with a unit: `9999`, `12.3k`, `1.23M`.
pub fn count(n: u64) -> String {
    let short = |size: u64, unit| {
        let value = n as f64 / size as f64;
        let digits = if value < 9.995 {
            2
        } else if value < 99.95 {
            1
        } else {
            0
        };
        format!("{value:.digits$}{unit}")
    };
    match n {
        ..10_000 => n.to_string(),
        10_000..1_000_000 => short(1_000, "k"),
        1_000_000..1_000_000_000 => short(1_000_000, "M"),
        _ => short(1_000_000_000, "G"),
    }
}

/// Seconds as a time span of two units at most: `4s`, `1m 15s`, `1h 2m`, `5d 3h`; `-` for no data.
pub fn span(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds.filter(|seconds| *seconds >= 0.0) else { return "-".to_owned() };
    let s = seconds as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m {}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h {}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_are_short() {
        for (micros, text) in [
            (0, "-"),
            (999, "999 us"),
            (1_000, "1.00 ms"),
            (9_994, "9.99 ms"),
            (9_999, "10.0 ms"),
            (99_949, "99.9 ms"),
            (350_400, "350 ms"),
            (999_499, "999 ms"),
            (999_500, "1.00 s"),
            (1_500_000, "1.50 s"),
        ] {
            assert_eq!(latency(micros), text);
        }
        for (n, text) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10.0k"),
            (123_456, "123k"),
            (1_234_567, "1.23M"),
            (99_960_000, "100M"),
            (1_000_000_000, "1.00G"),
        ] {
            assert_eq!(count(n), text);
        }
        for (seconds, text) in
            [(0.9, "0s"), (59.0, "59s"), (100.0, "1m 40s"), (7_300.0, "2h 1m"), (200_000.0, "2d 7h")]
        {
            assert_eq!(span(Some(seconds)), text);
        }
        assert_eq!(
            (span(None), span(Some(-1.0)), span(Some(f64::NAN))),
            ("-".into(), "-".into(), "-".into())
        );
    }
}
