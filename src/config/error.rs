//! What is wrong with a configuration: one line that says where, what, and what to do.

use std::path::PathBuf;

/// A mistake in `config.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// The line of a key, given as `section.key` or `key`, in a JSON text that was already parsed once.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let wanted: Vec<&str> = key.split('.').collect();
    let mut path: Vec<String> = vec![];
    let (mut line, mut depth, mut chars) = (1, 0usize, text.chars().peekable());
    let mut last_string: Option<(String, usize)> = None;
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            '{' | '[' => depth += 1,
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                path.truncate(depth);
            }
            '"' => {
                let mut word = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => word.extend(chars.next()),
                        c => word.push(c),
                    }
                }
                last_string = Some((word, line));
            }
            ':' => {
                let (word, at) = last_string.take()?;
                path.truncate(depth.saturating_sub(1));
                path.push(word);
                if path == wanted {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_their_section() {
        let text =
            "{\n \"a\": {\"x\": 1,\n  \"y\": \"b.x\"},\n \"b\": {\n  \"x\": [1, {\"y\": 2}], \"z\": 3}\n}";
        assert_eq!(line_of(text, "a"), Some(2));
        assert_eq!(line_of(text, "a.y"), Some(3));
        assert_eq!(line_of(text, "b.x"), Some(5));
        assert_eq!(line_of(text, "b.z"), Some(5));
        assert_eq!(line_of(text, "z"), None);
        assert_eq!(line_of("\"", "z"), None);
    }
}
