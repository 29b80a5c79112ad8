//! Axes: position of values, ticks, and number formats.

/// One axis of a chart.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// Name of the quantity, without the unit of the numbers.
    pub label: String,
    /// Scale of the axis.
    pub scale: Scale,
    /// Number format.
    pub numbers: Numbers,
    /// The axis reaches down to this value at least; lower data extend it.
    pub from: Option<f64>,
    /// The axis reaches up to this value at least; higher data extend it.
    pub to: Option<f64>,
}

/// Scale of an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Linear.
    #[default]
    Linear,
    /// Logarithmic: equal ratios have equal distances. Only values above 0 have a position.
    Log,
    /// Shares below 1: each further nine (0.9, 0.99, 0.999) takes the same space, which suits latency
    /// tails.
    Percentile,
}

/// Number format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// `0.95`, `20k`, `1.5M`.
    #[default]
    Plain,
    /// Microseconds, as `500 us`, `2 ms` or `1.5 s`.
    Micros,
    /// Shares from 0 to 1, as `0.1 %`.
    Percent,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: &str) -> Axis {
        Axis { label: label.to_owned(), ..Axis::default() }
    }

    /// A logarithmic axis.
    pub fn log(label: &str) -> Axis {
        Axis { scale: Scale::Log, ..Axis::linear(label) }
    }

    /// An axis of shares below 1 on which each further nine takes the same space.
    pub fn percentile(label: &str) -> Axis {
        Axis { scale: Scale::Percentile, numbers: Numbers::Percent, ..Axis::linear(label) }
    }

    /// Sets the number format.
    pub fn numbers(self, numbers: Numbers) -> Axis {
        Axis { numbers, ..self }
    }

    /// Makes the axis reach down to this value at least.
    pub fn from(self, value: f64) -> Axis {
        Axis { from: Some(value), ..self }
    }

    /// Makes the axis reach up to this value at least.
    pub fn to(self, value: f64) -> Axis {
        Axis { to: Some(value), ..self }
    }

    /// Fits the axis to these values.
    pub(super) fn fit(&self, values: impl Iterator<Item = f64>) -> Fitted {
        let scale = self.scale;
        let all = values.chain(self.from).chain(self.to).filter(|value| scale.place(*value).is_some());
        let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = match low <= high {
            true => (low, high),
            false => scale.default_range(),
        };
        let (low, high, ticks) = match scale {
            Scale::Linear => linear_ticks(low, high, self.from == Some(low), self.to == Some(high)),
            Scale::Log => log_ticks(low, high),
            Scale::Percentile => percentile_ticks(low, high),
        };
        let ticks = ticks.into_iter().map(|(value, is_named)| Tick {
            value,
            label: if is_named { self.numbers.write(value) } else { String::new() },
        });
        Fitted { scale, low, high, ticks: ticks.collect() }
    }
}

/// An axis with its ends and ticks.
pub(super) struct Fitted {
    scale: Scale,
    /// Values at the ends.
    pub low: f64,
    pub high: f64,
    pub ticks: Vec<Tick>,
}

/// A tick; without a label it is a minor one.
pub(super) struct Tick {
    pub value: f64,
    pub label: String,
}

impl Fitted {
    /// Position of a value: 0 at the low end, 1 at the high end. `None` if it has no position on this
    /// scale.
    pub fn place(&self, value: f64) -> Option<f64> {
        let at = |value| self.scale.place(value);
        let (low, high) = (at(self.low)?, at(self.high)?);
        Some((at(value)? - low) / (high - low))
    }
}

impl Scale {
    /// Transforms a value so that positions are linear.
    fn place(self, value: f64) -> Option<f64> {
        match self {
            Scale::Linear => value.is_finite().then_some(value),
            Scale::Log => (value.is_finite() && value > 0.0).then(|| value.log10()),
            Scale::Percentile => (0.0..1.0).contains(&value).then(|| -(1.0 - value).log10()),
        }
    }

    /// Range of an axis without values.
    fn default_range(self) -> (f64, f64) {
        match self {
            Scale::Linear => (0.0, 1.0),
            Scale::Log => (1.0, 10.0),
            Scale::Percentile => (0.0, 0.99),
        }
    }
}

impl Numbers {
    /// A value as text with up to four digits; shares close to 1 have up to seven.
    pub fn write(self, value: f64) -> String {
        let digits = |value: f64, unit: &str| format!("{}{unit}", rounded(value, 4));
        let size = value.abs();
        match self {
            Numbers::Percent if size > 0.99 => format!("{} %", rounded(value * 100.0, 7)),
            Numbers::Percent => digits(value * 100.0, " %"),
            Numbers::Micros if size >= 1e6 => digits(value / 1e6, " s"),
            Numbers::Micros if size >= 1e3 => digits(value / 1e3, " ms"),
            Numbers::Micros => digits(value, " us"),
            Numbers::Plain if size >= 1e9 => digits(value / 1e9, "G"),
            Numbers::Plain if size >= 1e6 => digits(value / 1e6, "M"),
            Numbers::Plain if size >= 1e4 => digits(value / 1e3, "k"),
            Numbers::Plain => digits(value, ""),
        }
    }
}

/// A number with this many significant digits, without trailing zeros.
fn rounded(value: f64, digits: i32) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let before = value.abs().log10().floor() as i32;
    let text = format!("{value:.*}", (digits - 1 - before).clamp(0, 9) as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Ends and ticks of an axis: (low, high, ticks and whether they have a label).
type Ticks = (f64, f64, Vec<(f64, bool)>);

/// About five steps of 1, 2 or 5 times a power of ten. An end that is not fixed becomes a multiple of
/// the step.
fn linear_ticks(low: f64, high: f64, keeps_low: bool, keeps_high: bool) -> Ticks {
    let is_range = high - low > high.abs().max(low.abs()) * 1e-9;
    let span = if is_range { high - low } else { high.abs().max(1.0) };
    let power = 10f64.powf((span / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step * 5.0 >= span * 0.999);
    let step = step.expect("ten times the power is enough");
    let first = (low / step + 1e-9).floor();
    let last = (high / step - 1e-9).ceil().max(first + 1.0);
    let low = if keeps_low && is_range { low } else { first * step };
    let high = if keeps_high && is_range { high } else { last * step };
    let marks = (0..=(last - first) as u32).map(|n| (first + f64::from(n)) * step);
    let slack = step * 1e-6;
    (
        low,
        high,
        marks.filter(|mark| (low - slack..=high + slack).contains(mark)).map(|mark| (mark, true)).collect(),
    )
}

/// Ticks of a logarithmic axis: powers of ten have labels, in a short range also 2 and 5, and in a very
/// short one all. The ends are 1, 2 or 5 times a power of ten.
fn log_ticks(low: f64, high: f64) -> Ticks {
    let mut marks = vec![];
    for power in (low.log10().floor() as i32 - 1)..=(high.log10().floor() as i32 + 1) {
        marks.extend((1..10).map(|n| (f64::from(n) * 10f64.powi(power), n)));
    }
    let is_end = |n: i32| matches!(n, 1 | 2 | 5);
    let below = |(value, n): &&(f64, i32)| is_end(*n) && *value <= low * (1.0 + 1e-9);
    let first = marks.iter().rfind(below).expect("a decade below was added").0;
    let above =
        |(value, n): &&(f64, i32)| is_end(*n) && *value >= high * (1.0 - 1e-9) && *value > first * 1.5;
    let last = marks.iter().find(above).expect("a decade above was added").0;
    let decades = (last / first).log10();
    let shown = |(value, n): (f64, i32)| {
        let is_inside = (first * 0.999..=last * 1.001).contains(&value);
        let is_named = n == 1 || (decades < 2.5 && is_end(n)) || decades < 0.5;
        (is_inside && (is_named || decades < 4.5)).then_some((value, is_named))
    };
    (first, last, marks.into_iter().filter_map(shown).collect())
}

/// Ticks 0, 50, 75, 90, 99, 99.9 ... up to the values; the ends are those of the values.
fn percentile_ticks(low: f64, high: f64) -> Ticks {
    let high = high.max(0.9);
    let low = if low < 0.5 { 0.0 } else { low.min(0.75) };
    let nines = (1..=12).map(|n| 1.0 - 10f64.powi(-n));
    let marks = [0.0, 0.5, 0.75].into_iter().chain(nines);
    let inside = marks.filter(|mark| (low..=high + 1e-13).contains(mark));
    (low, high, inside.map(|mark| (mark, true)).collect())
}
