//! What is wrong with a configuration: one line that says where, what, and what to do.

use std::fmt::Write;
use std::path::PathBuf;

/// A mistake in `config.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigError {
    /// The file; `None` for built-in defaults and command-line flags.
    pub file: Option<PathBuf>,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// The key with its section, such as `server.count`; empty where no key is concerned.
    pub key: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl ConfigError {
    /// An error in a text whose file is not known yet.
    pub(super) fn at(line: usize, key: String, problem: String) -> ConfigError {
        ConfigError { file: None, line: Some(line), key, problem }
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = OneLine(f);
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// Writes into an error with control characters escaped: whatever a file holds, its error is one line, and
/// does nothing to a terminal.
struct OneLine<'a, 'f>(&'a mut std::fmt::Formatter<'f>);

impl std::fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            let plain = part.trim_end_matches(char::is_control);
            write!(self.0, "{plain}{}", part[plain.len()..].escape_default())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_it_quotes() {
        let error = ConfigError {
            file: Some("a\nb.json".into()),
            line: Some(3),
            key: "x\ty".to_owned(),
            problem: "\"1\u{1b}[2J\r\n\" is no n\u{fc}mber".to_owned(),
        };
        assert_eq!(error.to_string(), r#"a\nb.json:3: x\ty: "1\u{1b}[2J\r\n" is no nümber"#);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let error = ConfigError { file: None, line: None, key: String::new(), problem: "bad".to_owned() };
        assert_eq!(error.to_string(), "bad");
    }
}
