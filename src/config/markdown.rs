//! docs/CONFIGURATION.md: the schema as tables, between the texts that a schema has no place for.

use std::fmt::Write;

use serde_json::Value;

use super::document::{items, lower_case, properties};
use super::raw::schema;

/// The texts of the page. Each run of lines `%keys PREFIX NAME...` stands for one table of keys; the prefix
/// `-` is empty.
const PAGE: &str = include_str!("page.md");

/// The page docs/CONFIGURATION.md.
pub fn markdown() -> String {
    let schema = schema();
    let mut page = String::new();
    let mut is_in_table = false;
    for line in PAGE.lines() {
        let Some(keys) = keys_of(line) else {
            is_in_table = false;
            page += line;
            page.push('\n');
            continue;
        };
        if !std::mem::replace(&mut is_in_table, true) {
            page += "| key | default | meaning |\n|---|---|---|\n";
        }
        for key in keys {
            let (default, meaning) = row(find(schema, &key));
            writeln!(page, "| `{key}` | {default} | {meaning} |").expect("a string takes everything");
        }
    }
    page
}

/// The keys that a line of the page stands for; `None` for a line of text.
fn keys_of(line: &str) -> Option<impl Iterator<Item = String>> {
    let (prefix, names) = line.strip_prefix("%keys ")?.split_once(' ')?;
    Some(names.split(' ').map(move |name| format!("{}{name}", prefix.trim_start_matches('-'))))
}

/// The definition of a key, such as `pools[].servers[].id`; null if there is none.
fn find<'s>(schema: &'s Value, key: &str) -> &'s Value {
    let step = |node: &'s Value, part: &str| {
        let name = part.trim_end_matches("[]");
        let node = properties(node)?.get(name)?;
        if name == part { Some(node) } else { items(node) }
    };
    key.split('.').try_fold(schema, step).unwrap_or(&Value::Null)
}

/// Default and meaning of a key: a default that is no constant ends the description.
fn row(node: &Value) -> (String, String) {
    let text = node["description"].as_str().unwrap_or_default().replace('\n', " ");
    let sentence = |from: usize| text[from..].trim_end_matches('.').to_owned();
    let (default, meaning) = if let Some((before, after)) = text.split_once("Without it: ") {
        (sentence(text.len() - after.len()), before)
    } else if let Some(at) = text.rfind("Required").filter(|&at| at > 0) {
        (uncapitalized(&sentence(at)), &text[..at])
    } else {
        (node["default"].as_str().map_or(node["default"].to_string(), str::to_owned), &text[..])
    };
    (default, uncapitalized(meaning.trim().trim_end_matches('.')))
}

/// The text with its first letter in lower case, unless the first word is an abbreviation.
fn uncapitalized(text: &str) -> String {
    match text.chars().nth(1) {
        Some(second) if second.is_lowercase() || second == ' ' => lower_case(text),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const COMMITTED: &str = include_str!("../../docs/CONFIGURATION.md");

    #[test]
    fn the_committed_page_is_what_the_command_prints() {
        let (printed, line) = (markdown(), |text: &str, at: usize| text.lines().nth(at).map(str::to_owned));
        let differs = (0..printed.lines().count().max(COMMITTED.lines().count()))
            .find(|&at| line(&printed, at) != line(COMMITTED, at));
        if let Some(at) = differs {
            panic!(
                "docs/CONFIGURATION.md, line {}, is not what `lbd schema --markdown` prints:\n{:?}\n{:?}",
                at + 1,
                line(COMMITTED, at),
                line(&printed, at)
            );
        }
    }

    /// The keys of values that the schema knows, without sections.
    fn keys(prefix: &str, node: &Value, into: &mut Vec<String>) {
        let choices = node["anyOf"].as_array().into_iter().flatten();
        for node in std::iter::once(node).chain(choices) {
            if let Some(items) = node.get("items") {
                keys(&format!("{}[].", prefix.trim_end_matches('.')), items, into);
            }
            for (name, child) in node["properties"].as_object().into_iter().flatten() {
                let key = format!("{prefix}{name}");
                keys(&format!("{key}."), child, into);
                if child["type"] != "object" {
                    into.push(key);
                }
            }
        }
    }

    #[test]
    fn the_page_has_every_key_of_the_schema_once() {
        let mut known = vec![];
        keys("", schema(), &mut known);
        known.sort();
        let mut shown: Vec<String> = PAGE.lines().filter_map(keys_of).flatten().collect();
        shown.sort();
        assert_eq!(shown, known);
        assert!(shown.len() > 120, "{}", shown.len());
    }

    #[test]
    fn every_row_has_a_default_and_a_meaning() {
        let rows: Vec<Vec<&str>> = COMMITTED
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
            .collect();
        for row in &rows {
            assert!(row.len() == 3 && row[1] != "null" && row[1].len() < 130 && row[2].len() > 8, "{row:?}");
        }
        assert!(rows.len() > 120, "{}", rows.len());
    }

    #[test]
    fn every_example_is_a_valid_configuration() {
        let mut count = 0;
        for example in COMMITTED.split("```json\n").skip(1) {
            let text = example.split("```").next().unwrap();
            if let Err(error) = Config::parse(text, Some(Path::new("example.json"))) {
                panic!("{error}\n{text}");
            }
            count += 1;
        }
        assert_eq!(count, 3);
    }
}
