//! A report as one self-contained HTML page: no script, no font, no request. Pure.
//!
//! The page is readable on a phone, in dark mode and on paper. Its content security policy allows only
//! its own style.

use std::fmt::Write;

use crate::report::chart::{self, Lines, escape};

/// A page under construction. Text never becomes markup.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with a title and a subtitle.
    pub fn new(title: &str, about: &str) -> Page {
        let mut body = format!("<header><h1>{}</h1>", escape(title));
        if !about.is_empty() {
            let _ = write!(body, "<p class=\"soft\">{}</p>", escape(about));
        }
        body.push_str("</header>\n");
        Page { title: title.to_owned(), body }
    }

    /// Adds a section; `fill` writes its content.
    pub fn section(mut self, heading: &str, fill: impl FnOnce(&mut Section)) -> Page {
        let mut section = Section { body: String::new() };
        fill(&mut section);
        let _ = writeln!(self.body, "<section><h2>{}</h2>\n{}</section>", escape(heading), section.body);
        self
    }

    /// The complete page.
    pub fn to_html(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta name=\"referrer\" content=\"no-referrer\">\n\
             <title>{}</title>\n<style>\n{}{}</style>\n</head>\n\
             <body>\n<main>\n{}</main>\n</body>\n</html>\n",
            escape(&self.title),
            STYLE,
            chart::STYLE,
            self.body
        )
    }
}

/// A section of a page.
#[derive(Debug)]
pub struct Section {
    body: String,
}

impl Section {
    /// Adds a paragraph.
    pub fn text(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escape(text));
    }

    /// Adds a highlighted paragraph with the result.
    pub fn result(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p class=\"result\">{}</p>", escape(text));
    }

    /// Adds lines of a terminal, verbatim.
    pub fn code(&mut self, text: &str) {
        let _ = writeln!(self.body, "<pre>{}</pre>", escape(text));
    }

    /// Adds names and values.
    pub fn facts<N: AsRef<str>, V: AsRef<str>>(&mut self, facts: impl IntoIterator<Item = (N, V)>) {
        self.body.push_str("<dl>\n");
        for (name, value) in facts {
            let (name, value) = (escape(name.as_ref()), escape(value.as_ref()));
            let _ = writeln!(self.body, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        }
        self.body.push_str("</dl>\n");
    }

    /// Adds a table; its first column has the row names. A column whose first cell begins with a letter
    /// is text.
    pub fn table<S: AsRef<str>>(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<S>>) {
        let rows: Vec<Vec<S>> = rows.into_iter().collect();
        let class = |column: usize| {
            let first = rows.first().and_then(|row| row.get(column)).map_or("", |cell| cell.as_ref());
            if first.starts_with(char::is_alphabetic) { " class=\"words\"" } else { "" }
        };
        self.body.push_str("<div class=\"wide\"><table>\n<thead><tr>");
        for (column, name) in head.iter().enumerate() {
            let _ = write!(self.body, "<th scope=\"col\"{}>{}</th>", class(column), escape(name));
        }
        self.body.push_str("</tr></thead>\n<tbody>\n");
        for row in &rows {
            self.body.push_str("<tr>");
            for (column, cell) in row.iter().enumerate() {
                let cell = escape(cell.as_ref());
                let _ = match column {
                    0 => write!(self.body, "<th scope=\"row\">{cell}</th>"),
                    _ => write!(self.body, "<td{}>{cell}</td>", class(column)),
                };
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    /// Adds a chart.
    pub fn chart(&mut self, chart: &Lines) {
        let _ = writeln!(self.body, "<div class=\"wide\">{}</div>", chart::lines(chart));
    }
}

const STYLE: &str = "\
:root {
  --page: #f4f5f7; --card: #fff; --text: #1b2330; --dim: #566072; --edge: #d8dce3;
}
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #11151c; --card: #1a202a; --text: #e6eaf1; --dim: #a3aec0; --edge: #343d4c; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 12px; }
h1 { font-size: 22px; margin: 8px 0 4px; }
h2 { font-size: 16px; margin: 0 0 8px; }
p { margin: 0 0 8px; overflow-wrap: anywhere; }
.soft { color: var(--dim); }
.result { font-size: 17px; font-weight: 600; }
section { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 14px;
  margin: 0 0 12px; min-width: 0; }
pre { margin: 0 0 8px; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.4 ui-monospace, monospace; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 6px 16px;
  margin: 0 0 8px; }
dt { color: var(--dim); font-size: 13px; }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
.chart { display: block; width: 100%; min-width: 560px; height: auto; margin: 0 0 12px; }
table { border-collapse: collapse; margin: 0 0 8px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 10px; white-space: nowrap; }
thead th { color: var(--dim); font-size: 13px; }
tbody th { font-weight: 600; }
.words, th:first-child { text-align: left; }
th:first-child { padding-left: 0; }
tbody tr > * { border-top: 1px solid var(--edge); }
@media (max-width: 620px) {
  .chart { min-width: 720px; }
}
@media print {
  body { background: none; font-size: 11pt; }
  main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; margin: 0 0 16pt; }
  h2, .result { break-after: avoid; }
  .chart, tr, dl { break-inside: avoid; }
  .wide { overflow: visible; }
  .chart { min-width: 0; }
  table { font-size: 9pt; }
  th, td { padding: 2pt 5pt; white-space: normal; }
}
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chart::Axis;

    #[test]
    fn a_page_has_its_parts_and_asks_for_nothing() {
        let chart = Lines {
            title: "c".to_owned(),
            x: Axis::linear("x"),
            y: Axis::linear("y"),
            series: vec![],
            rules: vec![],
        };
        let page = Page::new("<T>", "about").section("a & b", |section| {
            section.result("found");
            section.text("<script>alert(1)</script>");
            section.code("lbd 'x'");
            section.facts([("p99", "1 ms")]);
            section.table(&["name", "n", "what"], [vec!["row", "1", "good"], vec!["<b>", "2", "3"]]);
            section.chart(&chart);
        });
        let html = page.to_html();
        for part in [
            "<title>&lt;T&gt;</title>",
            "<h1>&lt;T&gt;</h1>",
            "<h2>a &amp; b</h2>",
            "<p class=\"result\">found</p>",
            "<p>&lt;script&gt;",
            "<dt>p99</dt><dd>1 ms</dd>",
            "<th scope=\"col\">n</th><th scope=\"col\" class=\"words\">what</th>",
            "<th scope=\"row\">&lt;b&gt;</th><td>2</td><td class=\"words\">3</td>",
            "<svg class=\"chart\"",
            "default-src 'none'",
            "@media print",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        let without_namespace = html.replace("http://www.w3.org/2000/svg", "");
        for request in
            ["http:", "https:", "<script", "src=", "href=", "url(", "@import", " style=", " onload"]
        {
            assert!(!without_namespace.contains(request), "{request}");
        }
    }
}
