//! The loads of `--load`.

use std::str::FromStr;

/// Shares of the total capacity: one, several (`0.5,0.8`), or a range (`0.5..0.95`, `0.5..0.95/10` for
/// ten loads).
#[derive(Clone, Debug, PartialEq)]
pub struct Loads(pub Vec<f64>);

/// Loads in a range without a count.
const USUAL: usize = 6;
/// Maximum loads.
const MOST: usize = 100;

impl FromStr for Loads {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let load = |text: &str| {
            let load: f64 = text.trim().parse().ok()?;
            (0.01..=10.0).contains(&load).then_some(load)
        };
        let read = || match text.split_once("..") {
            None => text.split(',').map(load).collect::<Option<Vec<f64>>>(),
            Some((from, to)) => {
                let (to, count) = to.split_once('/').unwrap_or((to, ""));
                let count = if count.is_empty() { USUAL } else { count.parse().ok()? };
                let (from, to) = (load(from)?, load(to)?);
                let step = |n: usize| from + (to - from) * n as f64 / (count - 1) as f64;
                // Rounded to four decimals, so that labels show no binary fractions.
                let rounded = |load: f64| (load * 1e4).round() / 1e4;
                ((2..=MOST).contains(&count) && from < to)
                    .then(|| (0..count).map(step).map(rounded).collect())
            }
        };
        let loads = read().filter(|loads| loads.len() <= MOST).map(Loads);
        loads.ok_or_else(|| {
            format!(
                "\"{text}\" is no load; use shares of the total capacity, 0.01 to 10, such as 0.85, 0.5,0.8, \
                 0.5..0.95 or 0.5..0.95/10"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(text: &str) -> Vec<f64> {
        text.parse::<Loads>().unwrap().0
    }

    #[test]
    fn one_several_and_a_range() {
        assert_eq!(loads("0.85"), [0.85]);
        assert_eq!(loads("0.5,0.8, 2"), [0.5, 0.8, 2.0]);
        assert_eq!(loads("0.5..0.95/4"), [0.5, 0.65, 0.8, 0.95]);
        assert_eq!(loads("0.5..1").len(), USUAL);
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in
            ["", "0", "-1", "11", "x", "0.5,", "0.9..0.5", "0.5..0.9/1", "0.5..0.9/x", "0.5..0.9/101", "NaN"]
        {
            let error = text.parse::<Loads>().unwrap_err();
            assert!(error.contains("0.5..0.95/10") && error.contains(text), "{error}");
        }
    }
}
