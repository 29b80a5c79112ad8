//! The text of a configuration: JSON that may have comments, with the line of each key. Pure.
//!
//! Names and kinds of values are checked against the schema that `lbd schema` prints: the two cannot differ.
//! Comments (`//` and `/* */`) and commas after the last item are accepted; everything else is JSON as RFC
//! 8259 has it.

use std::collections::HashSet;

use jsonc_parser::ast::{self, ObjectProp};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::Value;

use super::ConfigError;

/// Most characters of a value or a key that an error repeats.
const SHOWN_MAX: usize = 40;

/// One step on the way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PathStep {
    /// Into an object, to the value of this key.
    Key(String),
    /// Into a list, to the item with this index, from 0.
    Item(usize),
}

/// A text that is valid JSON with comments.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    root: ast::Value<'a>,
}

/// A value, with the key or item that it belongs to.
#[derive(Clone, Copy)]
struct WrittenValue<'d, 'a> {
    value: &'d ast::Value<'a>,
    /// Position of the key, or of the item itself, in bytes.
    start: usize,
}

impl<'a> Document<'a> {
    /// Reads a text.
    pub fn parse(text: &'a str) -> Result<Document<'a>, ConfigError> {
        let options = ParseOptions {
            allow_comments: true,
            allow_trailing_commas: true,
            allow_loose_object_property_names: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let parsed = parse_to_ast(text, &CollectOptions::default(), &options)
            .map_err(|error| invalid(text, error.range().start, &lower_case(&error.kind().to_string())))?;
        let empty = || {
            let problem = "the file is empty; write {} for the defaults".to_owned();
            ConfigError::at(line_at(text, text.len()), String::new(), problem)
        };
        Ok(Document { text, root: parsed.value.ok_or_else(empty)? })
    }

    /// The line of a key or an item, given with what contains it; `None` if it is not written.
    pub fn line(&self, key: &str) -> Option<usize> {
        let steps = steps(key);
        let way = self.way(&steps);
        (way.len() == steps.len()).then(|| line_at(self.text, way.last().map_or(0, |node| node.start)))
    }

    /// The line of a key, or of the innermost thing around it that is written.
    pub fn line_around(&self, key: &str) -> Option<usize> {
        self.way(&steps(key)).last().map(|node| line_at(self.text, node.start))
    }

    /// What is written along the way to a value, as far as it leads.
    fn way(&self, steps: &[PathStep]) -> Vec<WrittenValue<'_, 'a>> {
        let mut value = &self.root;
        let step_in = |step: &PathStep| {
            let node = match (step, value) {
                (PathStep::Key(name), ast::Value::Object(object)) => {
                    object.properties.iter().find(|property| property.name.as_str() == name).map(of_property)
                }
                (PathStep::Item(index), ast::Value::Array(list)) => list.elements.get(*index).map(of_item),
                _ => None,
            }?;
            value = node.value;
            Some(node)
        };
        steps.iter().map_while(step_in).collect()
    }

    /// The value of the text; an error at a key that is written twice, is unknown to the schema, or holds
    /// another kind of value than the schema says.
    pub fn value(&self, schema: &Value) -> Result<Value, ConfigError> {
        if !matches!(self.root, ast::Value::Object(_)) {
            let problem =
                format!("must be an object, not {}; write {{}} for the defaults", shown(&self.root));
            return Err(ConfigError::at(line_at(self.text, self.root.start()), String::new(), problem));
        }
        self.read(&mut vec![], WrittenValue { value: &self.root, start: self.root.start() }, schema)
    }

    /// Reads a value whose kind the schema allows. It refuses what is deeper than itself, so this ends.
    fn read(
        &self,
        path: &mut Vec<PathStep>,
        node: WrittenValue<'_, 'a>,
        schema: &Value,
    ) -> Result<Value, ConfigError> {
        let bad = |path: &[PathStep], node: WrittenValue, problem| {
            Err(ConfigError::at(line_at(self.text, node.start), written(path), problem))
        };
        if matches!(node.value, ast::Value::NullKeyword(_)) {
            let remedy = match path.last() {
                Some(PathStep::Item(_)) => "null is no value; remove it",
                _ => "null is no value; remove the key for its default",
            };
            return bad(path, node, remedy.to_owned());
        }
        if !path.is_empty() && !types(schema).contains(&kind(node.value)) {
            return bad(path, node, format!("must be {}, not {}", kinds(schema), shown(node.value)));
        }
        Ok(match node.value {
            ast::Value::Object(object) => {
                let known = properties(schema);
                let mut names = HashSet::new();
                let mut map = serde_json::Map::new();
                for property in &object.properties {
                    let node = of_property(property);
                    let name = property.name.as_str();
                    path.push(PathStep::Key(name.to_owned()));
                    if !names.insert(name) {
                        return bad(path, node, "this key stands here twice; remove one".to_owned());
                    }
                    let Some(schema) = known.and_then(|known| known.get(name)) else {
                        return bad(path, node, unknown(name, known));
                    };
                    map.insert(name.to_owned(), self.read(path, node, schema)?);
                    path.pop();
                }
                Value::Object(map)
            }
            ast::Value::Array(list) => {
                let schema = items(schema).unwrap_or(&Value::Null);
                let mut values = vec![];
                for (index, item) in list.elements.iter().enumerate() {
                    path.push(PathStep::Item(index));
                    values.push(self.read(path, of_item(item), schema)?);
                    path.pop();
                }
                Value::Array(values)
            }
            ast::Value::StringLit(text) => Value::String(text.value.to_string()),
            ast::Value::BooleanLit(is_true) => Value::Bool(is_true.value),
            ast::Value::NullKeyword(_) => Value::Null,
            ast::Value::NumberLit(number) => match number.value.parse() {
                Ok(number) => Value::Number(number),
                Err(_) => {
                    return Err(invalid(self.text, number.range.start, "number out of range"));
                }
            },
        })
    }
}

fn of_property<'d, 'a>(property: &'d ObjectProp<'a>) -> WrittenValue<'d, 'a> {
    WrittenValue { value: &property.value, start: property.range.start }
}

fn of_item<'d, 'a>(item: &'d ast::Value<'a>) -> WrittenValue<'d, 'a> {
    WrittenValue { value: item, start: item.start() }
}

/// A text that is not JSON, at this byte.
fn invalid(text: &str, at: usize, what: &str) -> ConfigError {
    let before = &text[..at];
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    let problem = format!("not valid JSON: {what} at column {column}");
    ConfigError::at(line_at(text, at), String::new(), problem)
}

/// The line of a byte, from 1.
fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// The text with its first letter in lower case.
pub fn lower_case(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().into_iter().flat_map(char::to_lowercase).chain(chars).collect()
}

fn unknown(name: &str, known: Option<&serde_json::Map<String, Value>>) -> String {
    let known: Vec<&str> = known.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    match nearest(name, &known) {
        Some(nearest) => format!("unknown key; did you mean \"{nearest}\"?"),
        None => format!("unknown key; remove it, or use one of {}", known.join(", ")),
    }
}

/// The way that a text such as `pools[0].health.interval` names.
fn steps(key: &str) -> Vec<PathStep> {
    let mut steps = vec![];
    for part in key.split('.') {
        let (name, items) = part.split_once('[').unwrap_or((part, ""));
        steps.push(PathStep::Key(name.to_owned()));
        let numbers = items.split(['[', ']']).filter_map(|number| number.parse().ok());
        steps.extend(numbers.map(PathStep::Item));
    }
    steps
}

/// A way in words, the opposite of [`steps`]; long names are cut.
fn written(path: &[PathStep]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            PathStep::Item(place) => text.push_str(&format!("[{place}]")),
            PathStep::Key(name) => {
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

/// The node itself and its alternatives.
fn choices(node: &Value) -> impl Iterator<Item = &Value> {
    std::iter::once(node).chain(node["anyOf"].as_array().into_iter().flatten())
}

/// The keys that an object may have, where the schema allows an object.
pub fn properties(node: &Value) -> Option<&serde_json::Map<String, Value>> {
    choices(node).find_map(|node| node["properties"].as_object())
}

/// What the items of a list may be, where the schema allows a list.
pub fn items(node: &Value) -> Option<&Value> {
    choices(node).find_map(|node| node.get("items"))
}

fn kind(value: &ast::Value<'_>) -> &'static str {
    match value {
        ast::Value::NullKeyword(_) => "null",
        ast::Value::BooleanLit(_) => "boolean",
        ast::Value::NumberLit(_) => "number",
        ast::Value::StringLit(_) => "string",
        ast::Value::Array(_) => "array",
        ast::Value::Object(_) => "object",
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

/// A value as errors repeat it.
fn shown(value: &ast::Value<'_>) -> String {
    match value {
        ast::Value::Array(_) => "a list".to_owned(),
        ast::Value::Object(_) => "an object".to_owned(),
        ast::Value::StringLit(text) => shortened(&Value::from(text.value.as_ref()).to_string()),
        ast::Value::NumberLit(number) => shortened(number.value),
        ast::Value::BooleanLit(is_true) => is_true.value.to_string(),
        ast::Value::NullKeyword(_) => "null".to_owned(),
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
            "side": {"anyOf": [
                {"type": "string"},
                {"type": "object", "properties": {"left": {"type": "string"}}},
            ]},
        }})
    }

    fn problem(text: &str) -> String {
        let bad = Document::parse(text).and_then(|document| document.value(&schema())).expect_err(text);
        format!("{}: {}: {}", bad.line.unwrap(), bad.key, bad.problem)
    }

    #[test]
    fn keys_are_found_in_their_section() {
        let text =
            "{\n \"a\": {\"x\": 1,\n  \"y\": \"b.x\"},\n \"b\": {\n  \"x\": [1, {\"y\": 2}], \"z\": 3}\n}";
        let keys = Document::parse(text).unwrap();
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
        let keys = Document::parse(text).unwrap();
        for (key, line) in [
            ("a[0]", Some(2)),
            ("a[1]", Some(2)),
            ("a[1][0]", None),
            ("a[2]", Some(3)),
            ("a[2][0]", Some(4)),
            ("a[2][1]", Some(5)),
            ("a[2][1].x", Some(5)),
            ("a[2][1].x.y", Some(6)),
            ("a[2][1].x.y[0]", Some(8)),
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
        assert_eq!(Document::parse("{\n\"c\\u006fu\\\"nt\": \"}\"}").unwrap().line("cou\"nt"), Some(2));
    }

    #[test]
    fn a_dot_in_a_key_is_not_a_section() {
        assert_eq!(Document::parse(r#"{"a.b": 1}"#).unwrap().line("a.b"), None);
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
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(Document::parse(text).unwrap().value(&schema()), Ok(value), "{text}");
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

    #[test]
    fn comments_and_a_comma_after_the_last_item_are_accepted() {
        let text = "// first\n{ /* \"count\": 2,\n */ \"count\": 1, // \"on\": true\n\"words\": [\"//\", \
        \"/**/\",],}\n// last";
        let document = Document::parse(text).unwrap();
        assert_eq!(document.value(&schema()), Ok(json!({"count": 1, "words": ["//", "/**/"]})));
        assert_eq!(
            (document.line("count"), document.line("words[1]"), document.line("on")),
            (Some(3), Some(4), None)
        );
    }

    #[test]
    fn nothing_else_is_accepted_that_json_does_not_have() {
        for (text, says) in [
            ("{\n\"on\": /* \n", "2: : not valid JSON: unterminated comment block at column 7"),
            ("{count: 1}", "1: : not valid JSON: expected string for object property at column 2"),
            ("{'count': 1}", "1: : not valid JSON: single-quoted strings are not allowed at column 2"),
            ("{\"count\": 0x10}", "1: : not valid JSON: hexadecimal numbers are not allowed at column 11"),
            ("{\"count\": +1}", "1: : not valid JSON: unary plus on numbers is not allowed at column 11"),
            (
                "{\"count\": .5}",
                "1: : not valid JSON: leading or trailing decimal points on numbers are not allowed at \
                 column 11",
            ),
            ("{\"count\": NaN}", "1: : not valid JSON: unexpected token at column 11"),
            ("{\"count\": 1e999}", "1: : not valid JSON: number out of range at column 11"),
            ("{\"words\": [\"a\" \"b\"]}", "1: : not valid JSON: expected comma at column 15"),
            ("{\"parts\": [{} {}]}", "1: : not valid JSON: expected comma at column 14"),
            ("{\"words\": [,]}", "1: : not valid JSON: unexpected comma at column 12"),
            ("{,}", "1: : not valid JSON: unexpected token in object at column 2"),
            ("{} {}", "1: : not valid JSON: text cannot contain more than one JSON value at column 4"),
            ("{\"on\": \"\\x41\"}", "1: : not valid JSON: invalid escape at column 9"),
            ("# no", "1: : not valid JSON: unexpected token at column 1"),
        ] {
            assert_eq!(problem(text), says);
        }
        for text in ["", "\n \n// only a comment"] {
            assert!(problem(text).ends_with(": : the file is empty; write {} for the defaults"), "{text}");
        }
    }

    #[test]
    fn no_depth_overflows_the_stack() {
        for open in ["[", "{\"a\":", "[{\"a\":"] {
            let deep = open.repeat(100_000);
            assert!(problem(&deep).contains("maximum nesting depth exceeded"), "{open}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{}\\[\\]\",:\\\\ a\n\u{e9}]{0,40}") {
            if let Ok(document) = Document::parse(&text) {
                let _ = document.value(&schema());
            }
        }
    }
}
