//! docs/CONFIGURATION.md: the schema as tables, between the texts that a schema has no place for.

use std::fmt::Write;

use serde_json::Value;

use super::document::{items, lower_case, properties};
use super::raw::schema;

/// A piece of the page.
enum Part {
    /// A text as it is.
    Text(&'static str),
    /// A table of keys: what they begin with, and the rest of each.
    Keys(&'static str, &'static str),
}
use Part::{Keys, Text};

const PAGE: &[Part] = &[
    Text(
        "# Configuration

Every key of `config.json`, with its default, unit and range.

<!-- Written by `lbd schema --markdown`; a test compares. Edit src/config/raw.rs or markdown.rs, then run
`cargo run --bin lbd -- schema --markdown > docs/CONFIGURATION.md`. -->

[The file](#the-file) · [Short form](#short-form-one-native-pool) · [Pools](#pools) ·
[Native pools](#native-pools) · [DNS and datagram pools](#dns-and-datagram-pools) · [Health](#health) ·
[Servers that lbd runs](#servers-that-lbd-runs) · [Logs, admin interface, files](#logs-admin-interface-files)

## The file

lbd reads `config.json` in the working directory; `--config FILE` selects another file. Every key is
optional, so `{}` is a valid file.

- The file is JSON as RFC 8259 has it, plus `//` and `/* */` comments and a comma after the last item.
- Numbers may be strings: `5` and `\"5\"` are the same.
- Durations are milliseconds, or have a unit: `\"250ms\"`, `\"2s\"`, `\"5m\"`.
- Port ranges exclude their end.
- Relative paths start at the working directory.
- lbd refuses unknown keys, and keys that a pool's protocol does not use.
- `lbd check FILE` prints what a file will run, or the file, line and key of a mistake.
- `lbd schema` prints a JSON schema for editors; `\"$schema\"` in the file may name it.

Every component listens on 127.0.0.1 by default; a pool of the list listens where its `listen` says. The
server side and the controller of a native pool leave the loopback only with a `key_file`, the admin
interface only with an `admin.token_file`.

## Short form: one native pool

The sections `server`, `client`, `load_balancer` and `controller` describe one native pool with the name
`native`. `{}` runs it with the defaults. A file with `pools` runs it too if one of the sections is written.

The section `server`: the servers that `lbd controller`, `lbd server` and `lbd up` run.

",
    ),
    Keys(
        "server.",
        "count port_range_start port_range_end start_id command queue_update_interval min max weight service \
         queue_capacity workers grow_after shrink_after cool_down grow_cool_down shrink_cool_down grow_max \
         shrink_max",
    ),
    Text(
        "
The section `client`: the clients of `lbd up`, and the defaults of `lbd client`. They belong to the first
native pool, also if `pools` lists it.

",
    ),
    Keys("client.", "count port_range_start port_range_end start_id rate timeout deadline retries servers"),
    Text("\nThe section `load_balancer`: the balancer.\n\n"),
    Keys(
        "load_balancer.",
        "server_side_port client_side_port bind bind.client_side bind.server_side server_scaling_threshold \
         policy max_outstanding waiting_max servers_max frame_size frames_per_datagram reply_path workers \
         pin io health.rise health.fall health.down_max health.hold_down_max health.slow_start",
    ),
    Text("\nThe section `controller`: the process that starts and stops the servers.\n\n"),
    Keys("controller.", "port bind"),
    Text(
        "
## Pools

`pools` lists pools of every protocol; one balancer process runs them all. One dns or datagram pool needs no
file: `lbd balancer --listen 127.0.0.1:5300 --protocol dns --server 192.0.2.1 --server 192.0.2.2`.

```json
{
  // Unmodified servers: DNS here, or any other request and response over UDP.
  \"pools\": [
    {\"listen\": \"*:5300\", \"protocol\": \"dns\",
     \"servers\": [\"192.0.2.1\", {\"address\": \"192.0.2.2\", \"weight\": 2}]}
  ]
}
```

Keys of every pool:

",
    ),
    Keys("pools[].", "name protocol listen policy max_outstanding waiting_max servers_max workers pin io"),
    Text(
        "
## Native pools

Servers of a native pool use lbd's own frames and register themselves. The item says all that the four
sections say: the keys of `server` are in `run`, those of `load_balancer` in the item.

```json
{
  \"pools\": [
    {
      // The controller runs up to 8 servers.
      \"name\": \"orders\",
      \"protocol\": \"native\",
      \"listen\": \"127.0.0.1:54001\",
      \"server_side\": \"127.0.0.1:54000\",
      \"policy\": \"shortest_delay\",
      \"max_outstanding\": \"auto\",
      \"health\": {\"slow_start\": \"10s\"},
      \"controller\": \"127.0.0.1:55000\",
      \"run\": {\"port_range_start\": 50000, \"port_range_end\": 50100, \"max\": 8, \"service\": \"exp:5ms\"}
    },
    {
      // The servers are started elsewhere, with `lbd server --pool events`.
      \"name\": \"events\",
      \"protocol\": \"native\",
      \"listen\": \"127.0.0.1:54011\",
      \"server_side\": \"127.0.0.1:54010\",
      \"frame_size\": 1024
    }
  ]
}
```

`lbd server --pool NAME` and `lbd client --pool NAME` select a native pool; without it they use the first
one.

",
    ),
    Keys(
        "pools[].",
        "server_side queue_update_interval frame_size frames_per_datagram reply_path controller",
    ),
    Text("\n## DNS and datagram pools\n\nServers of these pools are unmodified.\n\n"),
    Keys(
        "pools[].",
        "servers servers[].address servers[].weight servers[].id affinity timeout replies hold idle_timeout \
         ports proxy_protocol transparent allow deny rate_per_source resolve_interval tcp_connections",
    ),
    Text("\n## Health\n\n"),
    Keys(
        "pools[].health.",
        "rise fall down_max hold_down_max slow_start check query send expect interval timeout",
    ),
    Text(
        "
## Servers that lbd runs

With `run`, `lbd controller` starts servers for a pool, and adds and stops servers with the load. It reports
unmodified servers to the balancer through `admin.listen`; native servers register themselves.

```json
{\"pools\": [{\"listen\": \"*:5300\", \"protocol\": \"dns\", \"run\": {
  \"command\": \"dnsmasq --keep-in-foreground --bind-interfaces --listen-address=127.0.0.1 --port={port}\",
  \"port_range_start\": 5310, \"port_range_end\": 5330, \"max\": 6}}]}
```

",
    ),
    Keys(
        "pools[].run.",
        "command address port_range_start port_range_end start_id count min max threshold grow_after \
         shrink_after cool_down grow_cool_down shrink_cool_down grow_max shrink_max weight service \
         queue_capacity workers",
    ),
    Text("\n## Logs, admin interface, files\n\n"),
    Keys("logs.", "dir level format size_max"),
    Text("\n"),
    Keys("admin.", "listen token_file"),
    Text("\n"),
    Keys("", "state_dir key_file pools $schema"),
];

/// The page docs/CONFIGURATION.md.
pub fn markdown() -> String {
    let schema = schema();
    let mut page = String::new();
    for part in PAGE {
        match part {
            Text(text) => page.push_str(text),
            Keys(prefix, names) => {
                page.push_str("| key | default | meaning |\n|---|---|---|\n");
                for name in names.split_whitespace() {
                    let key = format!("{prefix}{name}");
                    let (default, meaning) = row(find(&schema, &key));
                    writeln!(page, "| `{key}` | {default} | {meaning} |").expect("a string takes everything");
                }
            }
        }
    }
    page
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
        keys("", &schema(), &mut known);
        known.sort();
        let keys = PAGE
            .iter()
            .filter_map(|part| if let Keys(prefix, names) = part { Some((prefix, names)) } else { None });
        let mut shown: Vec<String> = keys
            .flat_map(|(prefix, names)| names.split_whitespace().map(move |name| format!("{prefix}{name}")))
            .collect();
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
