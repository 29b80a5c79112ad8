//! The keys of a configuration text: where each stands, and whether the schema knows it. Pure.
//!
//! serde_json tells the place of a syntax error only, so the text is walked once more for the lines of its keys.
//! Names and kinds of values are checked against the schema that `lbd schema` prints: the two cannot differ.

use std::collections::HashSet;

use serde_json::Value;

/// Keys below this depth belong to no setting (`load_balancer.bind.client_side` is the deepest).
const DEPTH_MAX: usize = 3;

/// Characters of a value or a key that an error repeats at most.
const SHOWN_MAX: usize = 40;

/// Names that are reserved for what is not implemented yet.
const LATER: [&str; 3] = ["pools", "admin", "load_balancer.waiting_max"];

/// Where a key stands.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The key below the keys that contain it.
    path: Vec<String>,
    /// From 1.
    line: usize,
}

/// The keys of a text in the order of the text.
#[derive(Debug, Default)]
pub struct Keys(Vec<Place>);

/// A key that cannot stand where it stands, or its value.
#[derive(Debug, PartialEq, Eq)]
pub struct BadKey {
    /// With its section, such as `server.count`; empty for the whole text.
    pub key: String,
    /// The line of the key, from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl Keys {
    /// Finds the keys of a text that is valid JSON; of any other text, some of them.
    pub fn find(text: &str) -> Keys {
        let mut places = vec![];
        // One entry per open bracket: the key that is being read inside an object, `None` inside an array.
        let mut open: Vec<Option<String>> = vec![];
        let (mut line, mut at, mut name_next) = (1, 0, false);
        let bytes = text.as_bytes();
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'\n' => line += 1,
                b'{' | b'[' => {
                    name_next = byte == b'{';
                    open.push(name_next.then(String::new));
                }
                b'}' | b']' => {
                    open.pop();
                    name_next = false;
                }
                b',' => name_next = matches!(open.last(), Some(Some(_))),
                b'"' => {
                    let end = string_end(bytes, at);
                    if name_next {
                        name_next = false;
                        if let Some(last) = open.last_mut() {
                            *last = Some(name(text.get(at..=end)));
                        }
                        if open.len() <= DEPTH_MAX
                            && let Some(path) = open.iter().cloned().collect()
                        {
                            places.push(Place { path, line });
                        }
                    }
                    at = end;
                }
                _ => {}
            }
            at += 1;
        }
        Keys(places)
    }

    /// The line of a key, given with its section.
    pub fn line(&self, key: &str) -> Option<usize> {
        let same = |place: &&Place| place.path.iter().map(String::as_str).eq(key.split('.'));
        self.0.iter().find(same).map(|place| place.line)
    }

    /// The first key that is written twice, is unknown to the schema, or holds another kind of value than the
    /// schema says. `root` is the text's value.
    pub fn check(&self, root: &Value, schema: &Value) -> Result<(), BadKey> {
        let mut seen = HashSet::new();
        if let Some(twice) = self.0.iter().find(|place| !seen.insert(&place.path)) {
            return Err(twice.bad("this key stands here twice; remove one".to_owned()));
        }
        if !root.is_object() {
            let problem =
                format!("must be an object, not {}; write {{}} for the defaults", shown_value(root));
            return Err(BadKey { key: String::new(), line: 1, problem });
        }
        for place in &self.0 {
            let (mut node, mut value) = (schema, root);
            for name in &place.path {
                let known = properties(node);
                let Some(next) = known.and_then(|known| known.get(name)) else {
                    return Err(place.unknown(known));
                };
                // The text is valid and no key occurs twice, so the path leads to a value.
                (node, value) = (next, &value[name.as_str()]);
            }
            if value.is_null() {
                return Err(place.bad("null is no value; remove the key for its default".to_owned()));
            }
            if !fits(node, value) {
                return Err(place.bad(format!("must be {}, not {}", kinds(node), shown_value(value))));
            }
        }
        Ok(())
    }
}

impl Place {
    fn bad(&self, problem: String) -> BadKey {
        let names: Vec<String> = self.path.iter().map(|name| shortened(name)).collect();
        BadKey { key: names.join("."), line: self.line, problem }
    }

    fn unknown(&self, known: Option<&serde_json::Map<String, Value>>) -> BadKey {
        if LATER.iter().any(|later| later.split('.').eq(self.path.iter().map(String::as_str))) {
            return self.bad("this key is not implemented yet; remove the key".to_owned());
        }
        let known: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let name = self.path.last().map_or("", String::as_str);
        self.bad(match nearest(name, &known) {
            Some(nearest) => format!("unknown key; did you mean \"{nearest}\"?"),
            None => format!("unknown key; remove it, or use one of {}", known.join(", ")),
        })
    }
}

/// The known name that is most like `name`, if one is like it.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(known, name);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.7).then_some(best)
}

/// A text as errors repeat it: not longer than a line can bear.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// What a quoted name means.
fn name(quoted: Option<&str>) -> String {
    quoted.and_then(|quoted| serde_json::from_str(quoted).ok()).unwrap_or_default()
}

/// The index of the quote that ends the string that begins at `start`, or of the text's last byte.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len() - 1)
}

/// The keys that an object may have, where the schema allows an object.
fn properties(node: &Value) -> Option<&serde_json::Map<String, Value>> {
    let choices = node["anyOf"].as_array().into_iter().flatten();
    std::iter::once(node).chain(choices).find_map(|node| node["properties"].as_object())
}

/// Whether the value is of a kind that the schema allows; keys inside an object have their own check.
fn fits(node: &Value, value: &Value) -> bool {
    if let Some(choices) = node["anyOf"].as_array() {
        return choices.iter().any(|node| fits(node, value));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    types(node).contains(&kind)
        && value.as_array().is_none_or(|items| items.iter().all(|item| fits(&node["items"], item)))
}

fn types(node: &Value) -> Vec<&str> {
    match &node["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    }
}

/// The kinds of values that the schema allows, in words.
fn kinds(node: &Value) -> String {
    let choices = node["anyOf"].as_array().into_iter().flatten();
    let names = std::iter::once(node).chain(choices).flat_map(types).map(|name| match name {
        "number" => "a number",
        "string" => "a string",
        "array" => "a list of strings",
        _ => "an object in { }",
    });
    names.collect::<Vec<_>>().join(" or ")
}

fn shown_value(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        value => shortened(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({"properties": {
            "count": {"type": ["number", "string"]},
            "words": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "side": {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"left": {"type": "string"}}}]},
        }})
    }

    fn problem(text: &str) -> String {
        let value = serde_json::from_str(text).unwrap();
        let bad = Keys::find(text).check(&value, &schema()).expect_err(text);
        format!("{}: {}: {}", bad.line, bad.key, bad.problem)
    }

    #[test]
    fn keys_are_found_in_their_section() {
        let text =
            "{\n \"a\": {\"x\": 1,\n  \"y\": \"b.x\"},\n \"b\": {\n  \"x\": [1, {\"y\": 2}], \"z\": 3}\n}";
        let keys = Keys::find(text);
        for (key, line) in [
            ("a", Some(2)),
            ("a.y", Some(3)),
            ("b.x", Some(5)),
            ("b.z", Some(5)),
            ("z", None),
            ("b.x.y", None),
        ] {
            assert_eq!(keys.line(key), line, "{key}");
        }
    }

    #[test]
    fn a_key_with_escapes_is_the_key_that_it_means() {
        assert_eq!(Keys::find("{\n\"c\\u006fu\\\"nt\": \"}\"}").line("cou\"nt"), Some(2));
    }

    #[test]
    fn a_dot_in_a_key_is_not_a_section() {
        assert_eq!(Keys::find(r#"{"a.b": 1}"#).line("a.b"), None);
        assert!(problem(r#"{"side": {"left": "x"}, "side.left": "y"}"#).contains("unknown key"));
    }

    #[test]
    fn known_keys_with_fitting_values_pass() {
        for text in [
            "{}",
            r#"{"count": 1, "words": "a b", "side": "x"}"#,
            r#"{"count": "1", "words": ["a", "b"], "side": {"left": "x"}}"#,
        ] {
            let value = serde_json::from_str(text).unwrap();
            assert_eq!(Keys::find(text).check(&value, &schema()), Ok(()), "{text}");
        }
    }

    #[test]
    fn the_first_bad_key_is_named_with_its_remedy() {
        for (text, says) in [
            ("{\"count\": 1,\n\"count\": 2}", "2: count: this key stands here twice; remove one"),
            ("{\n\"cuont\": 1}", "2: cuont: unknown key; did you mean \"count\"?"),
            ("{\"xyz\": 1}", "1: xyz: unknown key; remove it, or use one of count, side, words"),
            ("{\"side\":\n{\"letf\": \"\"}}", "2: side.letf: unknown key; did you mean \"left\"?"),
            (r#"{"pools": []}"#, "1: pools: this key is not implemented yet; remove the key"),
            (r#"{"count": null}"#, "1: count: null is no value; remove the key for its default"),
            (r#"{"count": [1]}"#, "1: count: must be a number or a string, not a list"),
            (r#"{"count": {"x": 1}}"#, "1: count: must be a number or a string, not an object"),
            (r#"{"count": true}"#, "1: count: must be a number or a string, not true"),
            (r#"{"words": ["a", 1]}"#, "1: words: must be a string or a list of strings, not a list"),
            (r#"{"side": 5}"#, "1: side: must be a string or an object in { }, not 5"),
            ("[]", "1: : must be an object, not a list; write {} for the defaults"),
        ] {
            assert_eq!(problem(text), says);
        }
    }

    #[test]
    fn a_long_name_is_cut() {
        let long = "x".repeat(1_000);
        assert!(problem(&format!("{{\"{long}\": 1}}")).len() < 120);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{}\\[\\]\",:\\\\ a\n\u{e9}]{0,40}") {
            Keys::find(&text);
        }
    }
}
