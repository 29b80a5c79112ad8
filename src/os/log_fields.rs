//! The fields of a log line in text form: `key=value`, separated by spaces.
//!
//! Text is always quoted. Any other value is quoted if it is empty, or contains a space, a quote, `=` or a
//! control character. So a value ends where a reader expects it, and no value can imitate a field or a line.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes the fields of a line.
pub(super) struct LogFields;

impl<'w> FormatFields<'w> for LogFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = LineFields { writer, is_first: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct LineFields<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl LineFields<'_> {
    fn put(&mut self, field: &Field, value: &dyn fmt::Display) {
        if self.result.is_err() {
            return;
        }
        let space = if std::mem::replace(&mut self.is_first, false) { "" } else { " " };
        self.result = match field.name() {
            "message" => write!(self.writer, "{space}{value}"),
            name => write!(self.writer, "{space}{}={value}", name.trim_start_matches("r#")),
        };
    }
}

impl Visit for LineFields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put(field, &value),
            _ => self.put(field, &format_args!("{value:?}")),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, &format_args!("{value:.2}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            return self.put(field, &format_args!("{value:?}"));
        }
        let text = format!("{value:?}");
        match is_plain(&text) {
            true => self.put(field, &text),
            false => self.put(field, &format_args!("{text:?}")),
        }
    }
}

/// Whether a reader finds the end of this value without quotes.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "\"=".contains(c))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The line that `act` logs, without time and level.
    fn logged(act: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let format = tracing_subscriber::fmt().with_writer(move || writer.clone()).fmt_fields(LogFields);
        let log = format.without_time().with_level(false).with_target(false).with_ansi(false).finish();
        tracing::subscriber::with_default(log, act);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.strip_suffix('\n').unwrap().to_owned()
    }

    #[test]
    fn a_value_that_could_be_misread_is_quoted() {
        let (error, empty) = (io::Error::other("no such file: \"x\"\nWARN"), "");
        let addr: std::net::SocketAddr = "[::1]:53".parse().unwrap();
        let line = logged(|| {
            tracing::info!(pool = "dns", server = 3, %addr, %error, "server joined");
        });
        let quoted = r#"error="no such file: \"x\"\nWARN""#;
        assert_eq!(line, format!(r#"server joined pool="dns" server=3 addr=[::1]:53 {quoted}"#));
        let line = logged(|| tracing::info!(a = %"x=1", b = %empty, c = %"1m 5s", d = %"7s", e = "", "x"));
        assert_eq!(line, r#"x a="x=1" b="" c="1m 5s" d=7s e="""#);
    }

    #[test]
    fn numbers_are_rounded_and_missing_values_left_out() {
        let none: Option<u64> = None;
        let line =
            logged(|| tracing::info!(load = 2.5 / 3.0, up = -3, held = true, none, "scaling requested"));
        assert_eq!(line, "scaling requested load=0.83 up=-3 held=true");
    }
}
