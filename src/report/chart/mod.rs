//! Line charts as SVG: points in, text out. Pure.
//!
//! A chart has no colours of its own. Its parts have classes, and [`STYLE`] gives the classes colours
//! for light, dark and print. A chart is part of a page with that style ([`crate::report::page`]), or a
//! file of its own ([`file()`]).
//!
//! The crate `plotters` is not used. It writes colours and fonts into every element, so dark mode would
//! need a second drawing. It rounds positions to whole pixels, so smooth curves get steps. It has
//! neither a percentile axis nor tooltips for points.

mod axis;
mod draw;

pub use axis::{Axis, Numbers, Scale};

/// A chart.
#[derive(Clone, Debug)]
pub struct Lines {
    /// Title above the chart, also its description for screen readers.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// Lines; the first ones are the most visible. Colours repeat after eight.
    pub series: Vec<Series>,
    /// Straight lines across the chart, such as a limit or an ideal.
    pub rules: Vec<Rule>,
}

/// One line of a chart.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y) in the order of x. A point without a position on its axis interrupts the line: a
    /// value that is not finite, or not above 0 on a logarithmic axis.
    pub points: Vec<(f64, f64)>,
    /// An area (x, low, high) in the line's colour: an interval. Often empty.
    pub band: Vec<(f64, f64, f64)>,
    /// How points are connected.
    pub style: Style,
    /// Colour, from 0; by the position in the chart if `None`. One thing has one colour in all charts of a
    /// page.
    pub colour: Option<usize>,
}

impl Series {
    /// Sets the colour.
    #[must_use]
    pub fn coloured(self, colour: usize) -> Series {
        Series { colour: Some(colour), ..self }
    }
}

/// How points are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Straight lines.
    #[default]
    Line,
    /// Straight lines with a mark at each point; its tooltip has the values.
    Marked,
    /// Marks only.
    Marks,
    /// Steps: a value holds until the next one.
    Steps,
}

/// A straight dashed line across the chart.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Label beside the line.
    pub label: String,
    /// Position of the line.
    pub at: At,
}

/// Position of a [`Rule`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// Vertical, at this x.
    X(f64),
    /// Horizontal, at this y.
    Y(f64),
}

/// CSS of all charts, for light, dark and print.
pub const STYLE: &str = include_str!("style.css");

/// The chart as an `<svg>` element, for a page with [`STYLE`].
pub fn lines(chart: &Lines) -> String {
    draw::svg(chart, "")
}

/// The chart as an SVG file with its style.
pub fn file(chart: &Lines) -> String {
    draw::svg(chart, STYLE) + "\n"
}

/// Escapes text for HTML and SVG, attributes included. Characters that XML does not allow are replaced.
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
