//! `config.json` as it is written. Numbers may be numbers or strings; everything is optional. What the values
//! mean, their ranges and defaults are settled in one place, the conversion in `mod.rs`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// A number, or a string that holds one (or a duration, or a name).
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
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
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["number", "string"]})
    }
}

/// A word list: an array, or one string that is split at spaces.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Words {
    /// Split at spaces.
    Line(String),
    /// Taken as they are.
    List(Vec<String>),
}

/// One address for both sides, or one for each.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Bind {
    /// For both.
    Both(String),
    /// For each.
    Each {
        /// Where clients ask.
        client_side: Option<String>,
        /// Where servers and the controller are talked to.
        server_side: Option<String>,
    },
}

/// The whole file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "lbd config.json")]
pub struct Raw {
    /// The servers, and how many of them there shall be.
    pub server: Option<RawServer>,
    /// The clients that `lbd up` starts, and the defaults of `lbd client`.
    pub client: Option<RawClient>,
    /// The load balancer.
    pub load_balancer: Option<RawBalancer>,
    /// The controller.
    pub controller: Option<RawController>,
    /// Logs.
    pub logs: Option<RawLogs>,
    /// File with the key that authenticates the frames between components: 32 hex digits, mode 0600. Needed as soon
    /// as the server side or the controller is not on a loopback address.
    pub key_file: Option<String>,
    /// Pools of other protocols. Not implemented yet.
    pub pools: Option<serde_json::Value>,
    /// The admin interface. Not implemented yet.
    pub admin: Option<serde_json::Value>,
}

/// The section `server`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawServer {
    /// Servers to start with. Default 1.
    pub count: Option<Text>,
    /// First port for servers. Default 50000.
    pub port_range_start: Option<Text>,
    /// Port after the last one for servers. Default 51000.
    pub port_range_end: Option<Text>,
    /// Id of the first server. Default 0.
    pub start_id: Option<Text>,
    /// How often a server reports what has changed: milliseconds, or a duration with its unit. 1 ms to 10 s. Default 10.
    pub queue_update_interval: Option<Text>,
    /// Program that is started as a server, with its arguments; {id}, {port} and {config} are filled in.
    /// Default: `lbd server`.
    pub command: Option<Words>,
    /// Never fewer servers. Default 1, or `count` if that is less.
    pub min: Option<Text>,
    /// Never more servers. Default 16, or `count` if that is more.
    pub max: Option<Text>,
    /// Share of each of these servers relative to others, 1 to 100. Default 1.
    pub weight: Option<Text>,
    /// Drawn service time, such as exp:5ms, fixed:1ms, bimodal:5ms, lognormal:5ms. Default: echo at once.
    pub service: Option<Text>,
    /// Requests that a server holds; more are refused with BUSY. 1 to 1048576. Default 4096.
    pub queue_capacity: Option<Text>,
    /// Requests that a server serves at a time. 1 to 1024. Default 1.
    pub workers: Option<Text>,
    /// How long the load must be high before servers are added. Default 500ms.
    pub grow_after: Option<Text>,
    /// How long the load must be low before a server is stopped. Default 3s.
    pub shrink_after: Option<Text>,
    /// The least time between two scaling decisions. Default 1s.
    pub cool_down: Option<Text>,
}

/// The section `client`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawClient {
    /// Clients that `lbd up` starts. Default 10.
    pub count: Option<Text>,
    /// First port for clients. Default 51000.
    pub port_range_start: Option<Text>,
    /// Port after the last one for clients. Default 52000.
    pub port_range_end: Option<Text>,
    /// Id of the first client. Default 1000.
    pub start_id: Option<Text>,
    /// Requests per second that the clients of `lbd up` send in all. Default 300.
    pub rate: Option<Text>,
    /// The least time to wait for an answer before a retry. Default 100ms.
    pub timeout: Option<Text>,
    /// When a request is given up. Default 2s.
    pub deadline: Option<Text>,
    /// Retries of one request at most, 0 to 100. Default 5.
    pub retries: Option<Text>,
    /// Addresses that direct replies may come from. Not implemented yet.
    pub servers: Option<serde_json::Value>,
}

/// The section `load_balancer`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBalancer {
    /// Port for servers and the controller. Default 54000.
    pub server_side_port: Option<Text>,
    /// Port for clients. Default 54001.
    pub client_side_port: Option<Text>,
    /// Requests per server that are thought to be too many. Default 5.
    pub server_scaling_threshold: Option<Text>,
    /// IP address to listen on, one for both sides or {"client_side": IP, "server_side": IP}. Default 127.0.0.1.
    pub bind: Option<Bind>,
    /// Bytes of a frame: 128 (with key_file 160) to 1200. Default 256.
    pub frame_size: Option<Text>,
    /// Worker threads. Only 1 is implemented yet.
    pub workers: Option<Text>,
    /// I/O back end: auto or mio. io_uring is not implemented yet.
    pub io: Option<Text>,
    /// The way of a reply: balancer. direct is not implemented yet.
    pub reply_path: Option<Text>,
    /// How a server is chosen: shortest_queue, two_choices, round_robin, random. Default shortest_queue.
    pub policy: Option<Text>,
    /// At most so many requests at one server; the rest is refused with BUSY. 1 to 1000000. Default: no limit.
    pub max_outstanding: Option<Text>,
    /// Room for so many servers, 1 to 4096. Default 64.
    pub servers_max: Option<Text>,
    /// Room for requests that wait in the balancer. Not implemented yet.
    pub waiting_max: Option<Text>,
}

/// The section `controller`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawController {
    /// Port for orders of the balancer. Default 55000.
    pub port: Option<Text>,
    /// IP address to listen on. Default 127.0.0.1.
    pub bind: Option<String>,
}

/// The section `logs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLogs {
    /// The folder. Default "logs".
    pub dir: Option<String>,
    /// Lines below this level are left out: error, warn, info, debug, trace. Default info.
    pub level: Option<Text>,
    /// text, or json: one object a line. Default text.
    pub format: Option<Text>,
    /// Bytes of a file before it is set aside (one old file is kept): a number, or with kB, MB, KiB, MiB. Default 10MB.
    pub size_max: Option<Text>,
}
