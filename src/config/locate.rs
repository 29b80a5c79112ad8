//! Finds where a file has a key of a valid configuration, for errors that come later than its reading.

use std::io::Read as _;
use std::path::Path;

use super::document::Document;
use super::form::Form;
use super::reader::Reader;
use super::{ConfigError, FILE_SIZE_MAX, schema};
use crate::os::regular_file;

/// An error at a key in a file, with the line where the file has the key, or what is around it. `key` is a
/// key of the pool of this name, as an item of `pools` has it; without a pool, a key with its section.
pub fn error_in_file(file: Option<&Path>, pool: Option<&str>, key: &str, problem: &str) -> ConfigError {
    let text = file.and_then(|file| read(file).ok()).unwrap_or_default();
    let document = Document::parse(text.strip_prefix('\u{feff}').unwrap_or(&text)).ok();
    let key = match (pool, key) {
        (None, key) | (Some(_), key @ "key_file") => key.to_owned(),
        (Some(pool), key) => {
            let form = document.as_ref().map_or(Form::Sections, |document| form_of(document, pool));
            form.key(key)
        }
    };
    match document {
        Some(document) => Reader { file, document: Some(document) }.error(&key, problem),
        None => ConfigError { file: file.map(Path::to_owned), line: None, key, problem: problem.to_owned() },
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    regular_file::open(file)?.take(FILE_SIZE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The form of the pool of this name.
fn form_of(document: &Document<'_>, pool: &str) -> Form {
    let value = document.value(schema()).unwrap_or_default();
    let pools = value["pools"].as_array().map_or(&[][..], Vec::as_slice);
    let is_it = |(place, item): (usize, &serde_json::Value)| match item["name"].as_str() {
        Some(name) => name == pool,
        None => pool == format!("pool-{}", place + 1),
    };
    pools.iter().enumerate().position(is_it).map_or(Form::Sections, Form::Item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_as_the_file_has_it_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        let error = |text: &str, pool, key: &str| {
            std::fs::write(&file, text).unwrap();
            let error = error_in_file(Some(&file), pool, key, "cannot change").to_string();
            error.strip_prefix(file.to_str().unwrap()).unwrap().to_owned()
        };
        let sections = "{\n\"key_file\": \"k\",\n\"load_balancer\": {\n\"workers\": 2}}";
        for (pool, key, expected) in [
            (Some("native"), "workers", ":4: load_balancer.workers: cannot change"),
            (Some("native"), "frame_size", ":3: load_balancer.frame_size: cannot change"),
            (Some("native"), "listen", ":3: load_balancer.client_side_port: cannot change"),
            (Some("native"), "key_file", ":2: key_file: cannot change"),
            (None, "admin.listen", ": admin.listen: cannot change"),
        ] {
            assert_eq!(error(sections, pool, key), expected);
        }
        let list = "{\"pools\": [{\"protocol\": \"dns\"},\n{\"name\": \"native\",\n\"frame_size\": 512}]}";
        assert_eq!(error(list, Some("native"), "frame_size"), ":3: pools[1].frame_size: cannot change");
        assert_eq!(error(list, Some("pool-1"), "workers"), ":1: pools[0].workers: cannot change");
        assert_eq!(error("{", Some("native"), "workers"), ": load_balancer.workers: cannot change");
        assert_eq!(error_in_file(None, None, "state_dir", "no").to_string(), "state_dir: no");
    }
}
