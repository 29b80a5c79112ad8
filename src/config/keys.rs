//! The keys of a configuration text: where each stands, and whether the schema knows it. Pure.
//!
//! serde_json tells the place of a syntax error only, so the text is walked once more for the lines of its keys.
//! Names and kinds of values are checked against the schema that `lbd schema` prints: the two cannot differ.

use std::collections::HashSet;

use serde_json::Value;

/// What stands below this depth belongs to no setting (`pools[0].servers[0].address` is the deepest).
const DEPTH_MAX: usize = 5;

/// Characters of a value or a key that an error repeats at most.
const SHOWN_MAX: usize = 40;

/// One step on the way to a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Into an object, to the value of this key.
    Key(String),
    /// Into a list, to the item at this place, from 0.
    Item(usize),
}

/// Where a key, or an item of a list, stands.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The way to its value.
    path: Vec<Step>,
    /// From 1.
    line: usize,
}

/// The keys and items of a text in the order of the text.
#[derive(Debug, Default)]
pub struct Keys(Vec<Place>);

/// A key that cannot stand where it stands, or its value.
#[derive(Debug, PartialEq, Eq)]
pub struct BadKey {
    /// With what contains it, such as `server.count` or `pools[0].servers[1]`; empty for the whole text.
    pub key: String,
    /// The line of the key, from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl Keys {
    /// Finds the keys and items of a text that is valid JSON; of any other text, some of them.
    pub fn find(text: &str) -> Keys {
        let mut places = vec![];
        // One entry per open bracket: the key that is being read inside an object, the item inside a list.
        let mut open: Vec<Step> = vec![];
        let (mut line, mut at) = (1, 0);
        // Whether a key, or an item of a list, is next.
        let (mut key_next, mut item_next) = (false, false);
        let bytes = text.as_bytes();
        while let Some(&byte) = bytes.get(at) {
            if item_next && !byte.is_ascii_whitespace() && byte != b']' {
                item_next = false;
                note(&mut places, &open, line);
            }
            match byte {
                b'\n' => line += 1,
                b'{' => {
                    open.push(Step::Key(String::new()));
                    key_next = true;
                }
                b'[' => {
                    open.push(Step::Item(0));
                    (key_next, item_next) = (false, true);
                }
                b'}' | b']' => {
                    open.pop();
                    (key_next, item_next) = (false, false);
                }
                b',' => match open.last_mut() {
                    Some(Step::Item(place)) => {
                        *place += 1;
                        item_next = true;
                    }
                    last => key_next = last.is_some(),
                },
                b'"' => {
                    let end = string_end(bytes, at);
                    if key_next {
                        key_next = false;
                        if let Some(last) = open.last_mut() {
                            *last = Step::Key(name(text.get(at..=end)));
                        }
                        note(&mut places, &open, line);
                    }
                    at = end;
                }
                _ => {}
            }
            at += 1;
        }
        Keys(places)
    }

    /// The line of a key or an item, given with what contains it.
    pub fn line(&self, key: &str) -> Option<usize> {
        let path = steps(key);
        self.0.iter().find(|place| place.path == path).map(|place| place.line)
    }

    /// The line of a key, or of the innermost thing around it that is written.
    pub fn line_around(&self, key: &str) -> Option<usize> {
        let path = steps(key);
        let around = self.0.iter().filter(|place| path.starts_with(&place.path));
        around.max_by_key(|place| place.path.len()).map(|place| place.line)
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
            for step in &place.path {
                // The text is valid and no key occurs twice, so the path leads to a value.
                (node, value) = match step {
                    Step::Key(name) => match properties(node).and_then(|known| known.get(name)) {
                        Some(next) => (next, &value[name.as_str()]),
                        None => return Err(place.unknown(properties(node))),
                    },
                    // A list where none may be is refused before its items.
                    Step::Item(at) => (items(node).unwrap_or(&Value::Null), &value[*at]),
                };
            }
            if value.is_null() {
                return Err(place.bad(match place.path.last() {
                    Some(Step::Item(_)) => "null is no value; remove it".to_owned(),
                    _ => "null is no value; remove the key for its default".to_owned(),
                }));
            }
            if !types(node).contains(&kind(value)) {
                return Err(place.bad(format!("must be {}, not {}", kinds(node), shown_value(value))));
            }
        }
        Ok(())
    }
}

impl Place {
    fn bad(&self, problem: String) -> BadKey {
        BadKey { key: written(&self.path), line: self.line, problem }
    }

    fn unknown(&self, known: Option<&serde_json::Map<String, Value>>) -> BadKey {
        let known: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let name = match self.path.last() {
            Some(Step::Key(name)) => name,
            _ => "",
        };
        self.bad(match nearest(name, &known) {
            Some(nearest) => format!("unknown key; did you mean \"{nearest}\"?"),
            None => format!("unknown key; remove it, or use one of {}", known.join(", ")),
        })
    }
}

/// Notes that something begins here, unless it is too deep to matter.
fn note(places: &mut Vec<Place>, open: &[Step], line: usize) {
    if open.len() <= DEPTH_MAX {
        places.push(Place { path: open.to_vec(), line });
    }
}

/// The way that a text such as `pools[0].health.interval` names.
fn steps(key: &str) -> Vec<Step> {
    let mut steps = vec![];
    for part in key.split('.') {
        let (name, items) = part.split_once('[').unwrap_or((part, ""));
        steps.push(Step::Key(name.to_owned()));
        let numbers = items.split(['[', ']']).filter_map(|number| number.parse().ok());
        steps.extend(numbers.map(Step::Item));
    }
    steps
}

/// A way in words, the opposite of [`steps`]; long names are cut.
fn written(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Item(place) => text.push_str(&format!("[{place}]")),
            Step::Key(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&shortened(name));
            }
        }
    }
    text
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

/// The node itself and its alternatives.
fn choices(node: &Value) -> impl Iterator<Item = &Value> {
    std::iter::once(node).chain(node["anyOf"].as_array().into_iter().flatten())
}

/// The keys that an object may have, where the schema allows an object.
fn properties(node: &Value) -> Option<&serde_json::Map<String, Value>> {
    choices(node).find_map(|node| node["properties"].as_object())
}

/// What the items of a list may be, where the schema allows a list.
fn items(node: &Value) -> Option<&Value> {
    choices(node).find_map(|node| node.get("items"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The kinds of values that the schema allows.
fn types(node: &Value) -> Vec<&str> {
    let types = choices(node).flat_map(|node| match &node["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    });
    types.collect()
}

/// The kinds of values that the schema allows, in words.
fn kinds(node: &Value) -> String {
    let names = types(node).into_iter().map(|name| match name {
        "number" => "a number".to_owned(),
        "string" => "a string".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => {
            let items = items(node).map(types).unwrap_or_default();
            format!(
                "a list of {}",
                items.iter().map(|kind| format!("{kind}s")).collect::<Vec<_>>().join(" or ")
            )
        }
        _ => "an object in { }".to_owned(),
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
            "on": {"type": "boolean"},
            "parts": {"type": "array", "items": {"anyOf": [
                {"type": "string"},
                {"type": "object", "properties": {
                    "size": {"type": "number"},
                    "deep": {"type": "object", "properties": {
                        "list": {"type": "array", "items": {"type": "string"}},
                    }},
                }},
            ]}},
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
            ("b.x[0]", Some(5)),
            ("b.x[1].y", Some(5)),
            ("b.x[2]", None),
        ] {
            assert_eq!(keys.line(key), line, "{key}");
        }
    }

    #[test]
    fn items_are_found_where_they_begin() {
        let text = "{\"a\": [\n1, [],\n[\n\"]\",\n{\"x\": {\n\"y\": [\n\n0]}}\n]]}";
        let keys = Keys::find(text);
        for (key, line) in [
            ("a[0]", Some(2)),
            ("a[1]", Some(2)),
            ("a[1][0]", None),
            ("a[2]", Some(3)),
            ("a[2][0]", Some(4)),
            ("a[2][1]", Some(5)),
            ("a[2][1].x", Some(5)),
            ("a[2][1].x.y", Some(6)),
            ("a[2][1].x.y[0]", None), // too deep to matter
            ("a[3]", None),
        ] {
            assert_eq!(keys.line(key), line, "{key}");
        }
        assert_eq!(keys.line_around("a[2][0].z.z"), Some(4));
        assert_eq!(keys.line_around("a[3].z"), Some(1));
        assert_eq!(keys.line_around("b"), None);
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
            r#"{"on": true, "words": [], "parts": ["a", {"size": 1, "deep": {"list": ["b"]}}, {}]}"#,
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
            ("{\"xyz\": 1}", "1: xyz: unknown key; remove it, or use one of count, on, parts, side, words"),
            ("{\"side\":\n{\"letf\": \"\"}}", "2: side.letf: unknown key; did you mean \"left\"?"),
            (r#"{"count": null}"#, "1: count: null is no value; remove the key for its default"),
            (r#"{"count": [1]}"#, "1: count: must be a number or a string, not a list"),
            (r#"{"count": {"x": 1}}"#, "1: count: must be a number or a string, not an object"),
            (r#"{"count": true}"#, "1: count: must be a number or a string, not true"),
            (r#"{"words": 1}"#, "1: words: must be a string or a list of strings, not 1"),
            ("{\"words\": [\"a\",\n1]}", "2: words[1]: must be a string, not 1"),
            (r#"{"words": [["a"]]}"#, "1: words[0]: must be a string, not a list"),
            (r#"{"words": ["a", null]}"#, "1: words[1]: null is no value; remove it"),
            (r#"{"on": "yes"}"#, "1: on: must be true or false, not \"yes\""),
            (r#"{"parts": {}}"#, "1: parts: must be a list of strings or objects, not an object"),
            ("{\"parts\": [\n\"a\",\n5]}", "3: parts[1]: must be a string or an object in { }, not 5"),
            (
                "{\"parts\": [{\"size\": 1},\n{\n\"siez\": 1}]}",
                "3: parts[1].siez: unknown key; did you mean \"size\"?",
            ),
            (
                "{\"parts\": [{\"size\": 1},\n{\"size\": 1,\n\"size\": 2}]}",
                "3: parts[1].size: this key stands here twice; remove one",
            ),
            (
                "{\"parts\": [{\"deep\": {\"list\":\n{}}}]}",
                "1: parts[0].deep.list: must be a list of strings, not an object",
            ),
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
