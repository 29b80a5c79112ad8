//! Figures in few characters, for tables.

/// Microseconds as a time, such as `350 us`, `2.10 ms`, `1.50 s`; `-` for none.
pub fn latency(micros: u64) -> String {
    match micros {
        0 => "-".to_owned(),
        1..1_000 => format!("{micros} us"),
        1_000..10_000 => format!("{:.2} ms", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
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

/// Seconds as an age of two units at most: `4 s`, `3 min`, `2 h`, `5 d`.
pub fn age(seconds: u64) -> String {
    match seconds {
        ..100 => format!("{seconds} s"),
        100..6_000 => format!("{} min", seconds / 60),
        6_000..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (micros, text) in [
            (0, "-"),
            (999, "999 us"),
            (1_000, "1.00 ms"),
            (9_999, "10.00 ms"),
            (10_499, "10 ms"),
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
        for (seconds, text) in [(0, "0 s"), (100, "1 min"), (7_200, "2 h"), (200_000, "2 d")] {
            assert_eq!(age(seconds), text);
        }
    }
}
