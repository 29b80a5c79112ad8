//! Draws a chart as SVG elements.

use std::fmt::Write;

use super::axis::Fitted;
use super::{At, Lines, Series, Style, escape};

/// Size of a chart, in units of its `viewBox`.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
/// Margins of the plot: axis labels to the left and below, title and legend above.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 18.0;
const BELOW: f64 = 44.0;
const TITLE: f64 = 26.0;
/// Height of a row of the legend.
const ROW: f64 = 18.0;
/// Estimated width of a character, on the large side because the reader's font is unknown.
const CHARACTER: f64 = 7.0;
/// Colours of the style sheet.
const COLOURS: usize = 8;
/// Maximum points per pixel column; more points change nothing visible.
const POINTS_PER_COLUMN: usize = 4;
/// Maximum points of a series that get marks with their values.
const MARKS_MAX: usize = 400;

/// The complete element.
pub(super) fn svg(chart: &Lines, style: &str) -> String {
    let (names, rows) = legend(&chart.series);
    let plot = Plot::new(chart, TITLE + f64::from(rows) * ROW + 8.0);
    let mut out = format!(
        "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         role=\"img\" \
         aria-label=\"{}\">",
        escape(&chart.title)
    );
    if !style.is_empty() {
        let _ = write!(out, "<style>{style}</style>");
    }
    let _ = write!(out, "<text class=\"title\" x=\"8\" y=\"19\">{}</text>", escape(&chart.title));
    out.push_str(&names);
    plot.axes(chart, &mut out);
    for (index, series) in chart.series.iter().enumerate() {
        let _ = write!(out, "<g class=\"s s{}\">", colour(index, series));
        plot.series(chart, series, &mut out);
        out.push_str("</g>");
    }
    plot.rules(chart, &mut out);
    out.push_str("</svg>");
    out
}

fn colour(index: usize, series: &Series) -> usize {
    series.colour.unwrap_or(index) % COLOURS
}

/// The legend, and its number of rows.
fn legend(series: &[Series]) -> (String, u32) {
    let mut out = String::new();
    let (mut x, mut row) = (LEFT, 0);
    for (index, series) in series.iter().enumerate().filter(|(_, series)| !series.name.is_empty()) {
        let width = 34.0 + series.name.chars().count() as f64 * CHARACTER + 10.0;
        if x + width > WIDTH - RIGHT && x > LEFT {
            (x, row) = (LEFT, row + 1);
        }
        let y = TITLE + f64::from(row) * ROW + 9.0;
        let _ = write!(out, "<g class=\"key s s{}\">", colour(index, series));
        if series.style != Style::Marks {
            let _ = write!(out, "<path class=\"curve\" d=\"M{x} {y}h28\"/>");
        }
        if matches!(series.style, Style::Marks | Style::Marked) {
            let _ = write!(out, "<circle class=\"mark\" cx=\"{}\" cy=\"{y}\" r=\"3\"/>", x + 14.0);
        }
        let _ = write!(
            out,
            "<text class=\"name\" x=\"{}\" y=\"{}\">{}</text></g>",
            x + 34.0,
            y + 4.0,
            escape(&series.name)
        );
        x += width;
    }
    (out, if x > LEFT { row + 1 } else { 0 })
}

/// The area between the axes.
struct Plot {
    x: Fitted,
    y: Fitted,
    top: f64,
}

impl Plot {
    fn new(chart: &Lines, top: f64) -> Plot {
        let points = || chart.series.iter().flat_map(|series| &series.points);
        let bands = || chart.series.iter().flat_map(|series| &series.band);
        let rules =
            |wanted: fn(At) -> Option<f64>| chart.rules.iter().filter_map(move |rule| wanted(rule.at));
        let x = points().map(|(x, _)| *x).chain(bands().map(|(x, ..)| *x));
        let y = points().map(|(_, y)| *y).chain(bands().flat_map(|(_, low, high)| [*low, *high]));
        Plot {
            x: chart.x.fit(x.chain(rules(|at| if let At::X(x) = at { Some(x) } else { None }))),
            y: chart.y.fit(y.chain(rules(|at| if let At::Y(y) = at { Some(y) } else { None }))),
            top,
        }
    }

    const RIGHT_END: f64 = WIDTH - RIGHT;
    const BOTTOM: f64 = HEIGHT - BELOW;

    fn at_x(&self, x: f64) -> Option<f64> {
        Some(LEFT + self.x.place(x)? * (Self::RIGHT_END - LEFT))
    }

    fn at_y(&self, y: f64) -> Option<f64> {
        Some(Self::BOTTOM - self.y.place(y)? * (Self::BOTTOM - self.top))
    }

    fn at(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        Some((self.at_x(x)?, self.at_y(y)?))
    }

    fn axes(&self, chart: &Lines, out: &mut String) {
        let (top, bottom, right) = (self.top, Self::BOTTOM, Self::RIGHT_END);
        let mut free_from = f64::NEG_INFINITY;
        for tick in &self.x.ticks {
            let Some(x) = self.at_x(tick.value) else { continue };
            let class = if tick.label.is_empty() { "minor" } else { "grid" };
            let _ = write!(out, "<path class=\"{class}\" d=\"M{x:.1} {top}V{bottom}\"/>");
            let half = tick.label.chars().count() as f64 * CHARACTER / 2.0;
            if tick.label.is_empty() || x - half < free_from {
                continue;
            }
            free_from = x + half + CHARACTER;
            let y = bottom + 17.0;
            let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", tick.label);
        }
        for tick in &self.y.ticks {
            let Some(y) = self.at_y(tick.value) else { continue };
            let class = if tick.label.is_empty() { "minor" } else { "grid" };
            let _ = write!(out, "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{right}\"/>");
            if !tick.label.is_empty() {
                let (x, y) = (LEFT - 6.0, y + 4.0);
                let _ = write!(out, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", tick.label);
            }
        }
        let (width, height) = (right - LEFT, bottom - top);
        let _ = write!(
            out,
            "<rect class=\"frame\" x=\"{LEFT}\" y=\"{top}\" width=\"{width}\" height=\"{height}\"/>"
        );
        let (x, y) = ((LEFT + right) / 2.0, HEIGHT - 8.0);
        let label = escape(&chart.x.label);
        let _ = write!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>");
        let (y, label) = ((top + bottom) / 2.0, escape(&chart.y.label));
        let _ = write!(
            out,
            "<text x=\"14\" y=\"{y}\" transform=\"rotate(-90 14 {y})\" text-anchor=\"middle\">{label}</text>"
        );
    }

    fn series(&self, chart: &Lines, series: &Series, out: &mut String) {
        if let Some(path) = self.band(series) {
            let _ = write!(out, "<path class=\"band\" d=\"{path}\"/>");
        }
        let places: Vec<Option<(f64, f64)>> = series.points.iter().map(|point| self.at(*point)).collect();
        if series.style != Style::Marks {
            let path = curve(&thin(&places), series.style == Style::Steps);
            let _ = write!(out, "<path class=\"curve\" d=\"{path}\"/>");
        }
        if matches!(series.style, Style::Marks | Style::Marked) && places.len() <= MARKS_MAX {
            for ((x, y), place) in series.points.iter().zip(&places) {
                let Some((cx, cy)) = place else { continue };
                let (x, y) = (chart.x.numbers.write(*x), chart.y.numbers.write(*y));
                let _ = write!(
                    out,
                    "<circle class=\"mark\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3\"><title>{}: {x}, \
                     {y}</title></circle>",
                    escape(&series.name)
                );
            }
        }
    }

    fn band(&self, series: &Series) -> Option<String> {
        let low = series.band.iter().filter_map(|(x, low, high)| {
            self.at_y(*high)?;
            self.at((*x, *low))
        });
        let high = series.band.iter().rev().filter_map(|(x, low, high)| {
            self.at_y(*low)?;
            self.at((*x, *high))
        });
        let around: Vec<_> = low.chain(high).map(Some).collect();
        (around.len() > 2).then(|| curve(&around, false) + "Z")
    }

    fn rules(&self, chart: &Lines, out: &mut String) {
        for rule in &chart.rules {
            let label = escape(&rule.label);
            let (line, x, y) = match rule.at {
                At::X(x) => {
                    let Some(x) = self.at_x(x) else { continue };
                    (format!("M{x:.1} {}V{}", self.top, Self::BOTTOM), x, self.top + 13.0)
                }
                At::Y(y) => {
                    let Some(y) = self.at_y(y) else { continue };
                    (format!("M{LEFT} {y:.1}H{}", Self::RIGHT_END), Self::RIGHT_END, y - 5.0)
                }
            };
            // A vertical rule has its label on the side with more space.
            let is_left = x < (LEFT + Self::RIGHT_END) / 2.0;
            let (x, anchor) = if is_left { (x + 5.0, "start") } else { (x - 5.0, "end") };
            let _ = write!(
                out,
                "<path class=\"rule\" d=\"{line}\"/><text class=\"rule-label\" x=\"{x:.1}\" y=\"{y:.1}\" \
                 text-anchor=\"{anchor}\">{label}</text>"
            );
        }
    }
}

/// Path data through these positions; `None` interrupts the path.
fn curve(places: &[Option<(f64, f64)>], is_stepped: bool) -> String {
    let mut out = String::new();
    let mut last: Option<f64> = None;
    for place in places {
        match (place, last) {
            (None, _) => {}
            (Some((x, y)), None) => {
                // A line without length makes a point between two gaps visible.
                let _ = write!(out, "M{x:.1} {y:.1}h0");
            }
            (Some((x, y)), Some(_)) if is_stepped => {
                let _ = write!(out, "H{x:.1}V{y:.1}");
            }
            (Some((x, y)), Some(_)) => {
                let _ = write!(out, "L{x:.1} {y:.1}");
            }
        }
        last = place.map(|(x, _)| x);
    }
    out
}

/// Reduces the points of a pixel column to the first, lowest, highest and last, in order.
fn thin(places: &[Option<(f64, f64)>]) -> Vec<Option<(f64, f64)>> {
    if places.len() <= WIDTH as usize * POINTS_PER_COLUMN {
        return places.to_vec();
    }
    let column = |place: &Option<(f64, f64)>| place.map(|(x, _)| x as i64);
    let mut kept = vec![];
    for group in places.chunk_by(|a, b| column(a) == column(b)) {
        let height = |index: &usize| group[*index].map_or(0.0, |(_, y)| y);
        let indices = || 0..group.len();
        let lowest = indices().min_by(|a, b| height(a).total_cmp(&height(b)));
        let highest = indices().max_by(|a, b| height(a).total_cmp(&height(b)));
        let mut wanted = [Some(0), lowest, highest, indices().last()].map(|index| index.unwrap_or(0));
        wanted.sort_unstable();
        kept.extend(
            wanted
                .iter()
                .enumerate()
                .filter(|(n, i)| *n == 0 || wanted[n - 1] != **i)
                .map(|(_, i)| group[*i]),
        );
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_place_interrupts_a_line_and_steps_hold_their_value() {
        let places = [Some((1.0, 2.0)), Some((3.0, 4.0)), None, Some((5.0, 6.0)), Some((7.0, 8.0))];
        assert_eq!(curve(&places, false), "M1.0 2.0h0L3.0 4.0M5.0 6.0h0L7.0 8.0");
        assert_eq!(curve(&places, true), "M1.0 2.0h0H3.0V4.0M5.0 6.0h0H7.0V8.0");
    }

    #[test]
    fn thinning_keeps_the_ends_the_extremes_and_the_gaps() {
        let mut places: Vec<_> = (0..100_000).map(|n| Some((f64::from(n) / 200.0, 50.0))).collect();
        places[30_011] = Some((150.055, 99.0));
        places[30_077] = Some((150.385, 1.0));
        places[60_000] = None;
        let kept = thin(&places);
        assert!(kept.len() <= 500 * POINTS_PER_COLUMN + 3, "{}", kept.len());
        assert!(kept.is_sorted_by_key(|place| place.map_or(300.0, |(x, _)| x)));
        for index in [0, 30_011, 30_077, 60_000, 99_999] {
            assert!(kept.contains(&places[index]), "{index}");
        }
    }
}
