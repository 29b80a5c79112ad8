//! Line charts as SVG: points in, text out. Pure.
//!
//! A chart has no colours of its own: its parts have classes, and [`STYLE`] gives them colours for light, dark and
//! print. It goes into a page with that style ([`crate::report::page`]) or stands alone ([`file()`]).
//!
//! Written here and not by `plotters`: that library puts colours and fonts into every element (so no dark mode without
//! drawing twice), rounds places to whole pixels (so that a smooth curve has steps), and has neither a percentile axis
//! nor a way to tell a point's figures.

mod axis;
mod draw;

pub use axis::{Axis, Numbers, Scale};

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Lines {
    /// Above the chart, and what a screen reader says of it.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The first ones are the most visible. Colours repeat after eight.
    pub series: Vec<Series>,
    /// Straight lines across the chart: a limit, an ideal.
    pub rules: Vec<Rule>,
}

/// One line with its name in the legend.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Points (x, y) in the order of x. A point that has no place on its axis (not finite, or not above 0 on a
    /// logarithmic one) interrupts the line.
    pub points: Vec<(f64, f64)>,
    /// An area (x, low, high) in the line's colour: an interval. Often empty.
    pub band: Vec<(f64, f64, f64)>,
    /// How points are joined.
    pub style: Style,
}

/// How points are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// By straight lines.
    #[default]
    Line,
    /// By straight lines, and each point is marked. Pointing at a mark tells its figures.
    Marked,
    /// Not at all: each point is marked.
    Marks,
    /// A value holds until the next one.
    Steps,
}

/// A straight dashed line across the chart.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Beside the line.
    pub label: String,
    /// Where it is.
    pub at: At,
}

/// Where a [`Rule`] is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// Upright, at this x.
    X(f64),
    /// Level, at this y.
    Y(f64),
}

/// Colours and lines of all charts, for light, dark and print, as CSS.
pub const STYLE: &str = include_str!("style.css");

/// The chart as an `<svg>` element, for a page that has [`STYLE`].
pub fn lines(chart: &Lines) -> String {
    draw::svg(chart, "")
}

/// The chart as the text of an SVG file, with its style.
pub fn file(chart: &Lines) -> String {
    draw::svg(chart, STYLE) + "\n"
}

/// Text as it may stand in HTML and SVG, also within an attribute. Characters that XML does not allow are replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
