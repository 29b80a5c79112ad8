//! `config.json` as it is written. Numbers may be numbers or strings; everything is optional. What the values
//! mean, and their ranges, are settled in one place, the conversion in `mod.rs`; the defaults stated here go into
//! the schema, and a test holds the two equal.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

/// A number, or a string that holds one (or a duration, or a size).
#[derive(Clone, Debug)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.trim().to_owned()))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Text, E> {
                Ok(Text(n.to_string()))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Text, E> {
                Ok(Text(n.to_string()))
            }
            fn visit_f64<E>(self, n: f64) -> Result<Text, E> {
                Ok(Text(n.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "NumberOrString".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["number", "string"]})
    }
}

/// A word list: an array, or one string that is split at spaces.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Words {
    /// Split at spaces.
    Line(String),
    /// Taken as they are.
    List(Vec<String>),
}

/// One address for both sides, or one for each.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Bind {
    /// For both.
    Both(String),
    /// For each.
    Each {
        /// IP address where clients ask. Default 127.0.0.1.
        client_side: Option<String>,
        /// IP address where servers and the controller are talked to. Default 127.0.0.1.
        server_side: Option<String>,
    },
}

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "lbd config.json")]
pub struct Raw {
    /// The servers, and how many of them there shall be.
    pub server: RawServer,
    /// The clients that `lbd up` starts, and the defaults of `lbd client`.
    pub client: RawClient,
    /// The load balancer.
    pub load_balancer: RawBalancer,
    /// The controller.
    pub controller: RawController,
    /// Logs.
    pub logs: RawLogs,
    /// File with the key that authenticates the frames between components: 32 hex digits, mode 0600; a relative path
    /// starts at the working directory. Needed as soon as the server side or the controller is not on a loopback
    /// address. Without it frames carry no tag.
    pub key_file: Option<String>,
}

/// The section `server`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawServer {
    /// Servers to start with, from `min` to `max`.
    #[schemars(extend("default" = 1))]
    pub count: Option<Text>,
    /// First port for servers.
    #[schemars(extend("default" = 50_000))]
    pub port_range_start: Option<Text>,
    /// Port after the last one for servers.
    #[schemars(extend("default" = 51_000))]
    pub port_range_end: Option<Text>,
    /// Id of the first server.
    #[schemars(extend("default" = 0))]
    pub start_id: Option<Text>,
    /// How often a server reports what has changed: milliseconds, or a duration with its unit; 1ms to 10s.
    #[schemars(extend("default" = 10))]
    pub queue_update_interval: Option<Text>,
    /// Program that is started as a server, with its arguments; {id}, {port} and {config} are filled in.
    /// Without it: `lbd server`.
    pub command: Option<Words>,
    /// Never fewer servers; 0 to 4096, and not more than `count`. With `count` 0, the default is 0.
    #[schemars(extend("default" = 1))]
    pub min: Option<Text>,
    /// Never more servers; 1 to 4096. The default grows with `count`, and shrinks to what fits into the ports and
    /// into `load_balancer.servers_max`.
    #[schemars(extend("default" = 16))]
    pub max: Option<Text>,
    /// Share of each of these servers relative to others, 1 to 100.
    #[schemars(extend("default" = 1))]
    pub weight: Option<Text>,
    /// Drawn service time, such as exp:5ms, fixed:1ms, bimodal:5ms, lognormal:5ms. Without it a server echoes at
    /// once (`lbd up`: exp:5ms).
    pub service: Option<String>,
    /// Requests that a server holds, 1 to 1048576; more are refused with BUSY.
    #[schemars(extend("default" = 4_096))]
    pub queue_capacity: Option<Text>,
    /// Requests that a server serves at a time, 1 to 1024.
    #[schemars(extend("default" = 1))]
    pub workers: Option<Text>,
    /// How long the load must be high before servers are added: milliseconds, or with a unit; 10ms to 1 day.
    #[schemars(extend("default" = "500ms"))]
    pub grow_after: Option<Text>,
    /// How long the load must be low before a server is stopped: milliseconds, or with a unit; 10ms to 1 day.
    #[schemars(extend("default" = "3s"))]
    pub shrink_after: Option<Text>,
    /// The least time between two scaling decisions: milliseconds, or with a unit; 10ms to 1 day.
    #[schemars(extend("default" = "1s"))]
    pub cool_down: Option<Text>,
}

/// The section `client`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawClient {
    /// Clients that `lbd up` starts, 0 to 1000.
    #[schemars(extend("default" = 10))]
    pub count: Option<Text>,
    /// First port for clients.
    #[schemars(extend("default" = 51_000))]
    pub port_range_start: Option<Text>,
    /// Port after the last one for clients.
    #[schemars(extend("default" = 52_000))]
    pub port_range_end: Option<Text>,
    /// Id of the first client.
    #[schemars(extend("default" = 1_000))]
    pub start_id: Option<Text>,
    /// Requests per second that the clients of `lbd up` send in all, 0.001 to 10000000.
    #[schemars(extend("default" = 300))]
    pub rate: Option<Text>,
    /// The least time to wait for an answer before a retry: milliseconds, or with a unit; 1ms to 1min. The default
    /// shrinks to `deadline`.
    #[schemars(extend("default" = "100ms"))]
    pub timeout: Option<Text>,
    /// When a request is given up, counted from its first attempt: milliseconds, or with a unit; `timeout` to 1h.
    #[schemars(extend("default" = "2s"))]
    pub deadline: Option<Text>,
    /// Retries of one request at most, 0 to 100.
    #[schemars(extend("default" = 5))]
    pub retries: Option<Text>,
    /// Where answers may come from besides the balancer, with `reply_path` direct: IP addresses, each with or without a
    /// port. Without it: from anywhere.
    pub servers: Option<Vec<String>>,
}

/// The section `load_balancer`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBalancer {
    /// Port for servers and the controller.
    #[schemars(extend("default" = 54_000))]
    pub server_side_port: Option<Text>,
    /// Port for clients.
    #[schemars(extend("default" = 54_001))]
    pub client_side_port: Option<Text>,
    /// Requests per server that are too many: servers are added above 0.9 of it. 0.01 to 1000000.
    #[schemars(extend("default" = 5))]
    pub server_scaling_threshold: Option<Text>,
    /// IP address to listen on, one for both sides or {"client_side": IP, "server_side": IP}.
    #[schemars(extend("default" = "127.0.0.1"))]
    pub bind: Option<Bind>,
    /// Bytes of a frame: 128 (with key_file 160) to 1200.
    #[schemars(extend("default" = 256))]
    pub frame_size: Option<Text>,
    /// Frames of a turn for one destination that share a datagram at most, up to what 65507 bytes hold: more than the
    /// default only where the path carries large datagrams, as the loopback does. Without it: as many as 1472 bytes hold.
    pub frames_per_datagram: Option<Text>,
    /// Worker threads, 1 to 32. Without it: one for each processor that this process may use.
    pub workers: Option<Text>,
    /// Whether each worker stays on a processor of its own.
    #[schemars(extend("default" = false))]
    pub pin: Option<bool>,
    /// I/O back end of every component: auto, mio or io_uring (Linux 6.1; mio where there is none).
    #[schemars(extend("default" = "auto"))]
    pub io: Option<String>,
    /// The way of a reply: by way of the balancer, or direct from the server to the client.
    #[schemars(extend("default" = "balancer"))]
    pub reply_path: Option<String>,
    /// How a server is chosen: shortest_queue, two_choices, round_robin or random.
    #[schemars(extend("default" = "shortest_queue"))]
    pub policy: Option<String>,
    /// At most so many requests at one server, 1 to 1000000; the rest is refused with BUSY. Without it: no limit.
    pub max_outstanding: Option<Text>,
    /// Room for so many servers, 1 to 4096.
    #[schemars(extend("default" = 64))]
    pub servers_max: Option<Text>,
}

/// The section `controller`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawController {
    /// Port for orders of the balancer.
    #[schemars(extend("default" = 55_000))]
    pub port: Option<Text>,
    /// IP address to listen on.
    #[schemars(extend("default" = "127.0.0.1"))]
    pub bind: Option<String>,
}

/// The section `logs`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLogs {
    /// The folder; a relative path starts at the working directory.
    #[schemars(extend("default" = "logs"))]
    pub dir: Option<String>,
    /// Lines below this level are left out: error, warn, info, debug or trace.
    #[schemars(extend("default" = "info"))]
    pub level: Option<String>,
    /// text, or json: one object a line.
    #[schemars(extend("default" = "text"))]
    pub format: Option<String>,
    /// Bytes of a file before it is set aside (one old file is kept): a number, or with kB, MB, KiB, MiB; 10kB to
    /// 10000MB.
    #[schemars(extend("default" = "10MB"))]
    pub size_max: Option<Text>,
}

/// The schema of the file as it is written (`raw.rs`), without references, and without the `null` that stands for a key left out.
pub fn schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Raw>().to_value();
    drop_null(&mut schema);
    schema
}

fn drop_null(node: &mut serde_json::Value) {
    use serde_json::Value;
    match node {
        Value::Object(map) => {
            if map.get("default") == Some(&Value::Null) {
                map.remove("default");
            }
            if let Some(Value::Array(names)) = map.get_mut("type") {
                names.retain(|name| name != "null");
                if let [only] = names.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if choices.len() == 1
                    && let Some(Value::Object(only)) = choices.pop()
                {
                    // What is said about the key itself goes before what is said about its kind of value.
                    map.remove("anyOf");
                    for (name, value) in only {
                        map.entry(name).or_insert(value);
                    }
                }
            }
            map.values_mut().for_each(drop_null);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_null),
        _ => {}
    }
}
