//! `config.json` as it is written. Numbers may be numbers or strings; everything is optional. What the values
//! mean, and their ranges, are settled in one place, the conversion in `mod.rs`; the defaults stated here go
//! into the schema, and a test holds the two equal.

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
    /// URL or path of the schema of this file, for editors; lbd does not read it.
    #[serde(rename = "$schema")]
    pub schema: Option<String>,
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
    /// The admin interface of the balancer: status, metrics, dashboard, drain and reload, over HTTP.
    pub admin: RawAdmin,
    /// Folder for what running processes leave for their successors (sockets, which servers run), mode 0700; a relative
    /// path starts at the working directory. Without it: what the service manager gives (RUNTIME_DIRECTORY), else
    /// lbd in XDG_RUNTIME_DIR, else lbd-UID in the folder for temporary files.
    pub state_dir: Option<String>,
    /// File with the key that authenticates the frames between components: 32 hex digits, mode 0600; a
    /// relative path starts at the working directory. Needed as soon as the server side or the controller is
    /// not on a loopback address. Without it frames carry no tag.
    pub key_file: Option<String>,
    /// Datagram pools: servers that know nothing of lbd. With them, the balancer for lbd's own frames runs
    /// only if one of `server`, `client`, `load_balancer` and `controller` is there too.
    pub pools: Option<Vec<RawPool>>,
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
    /// Never more servers; 1 to 4096. The default grows with `count`, and shrinks to what fits into the ports
    /// and into `load_balancer.servers_max`.
    #[schemars(extend("default" = 16))]
    pub max: Option<Text>,
    /// Share of each of these servers relative to others, 1 to 100.
    #[schemars(extend("default" = 1))]
    pub weight: Option<Text>,
    /// Drawn service time, such as exp:5ms, fixed:1ms, bimodal:5ms, lognormal:5ms. Without it a server echoes
    /// at once (`lbd up`: exp:5ms).
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
    /// The default of `grow_cool_down` and `shrink_cool_down`: milliseconds, or with a unit; 10ms to 1 day.
    #[schemars(extend("default" = "1s"))]
    pub cool_down: Option<Text>,
    /// The least time from a scaling decision to the next one that adds servers: milliseconds, or with a unit; 10ms
    /// to 1 day. Without it: `cool_down`.
    pub grow_cool_down: Option<Text>,
    /// The same for one that stops servers. Without it: `cool_down`.
    pub shrink_cool_down: Option<Text>,
    /// Servers that one decision adds at most, 1 to 4096. Without it: as many as there are.
    pub grow_max: Option<Text>,
    /// Servers that one decision stops at most, 1 to 4096.
    #[schemars(extend("default" = 1))]
    pub shrink_max: Option<Text>,
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
    /// The least time to wait for an answer before a retry: milliseconds, or with a unit; 1ms to 1min. The
    /// default shrinks to `deadline`.
    #[schemars(extend("default" = "100ms"))]
    pub timeout: Option<Text>,
    /// When a request is given up, counted from its first attempt: milliseconds, or with a unit; `timeout` to
    /// 1h.
    #[schemars(extend("default" = "2s"))]
    pub deadline: Option<Text>,
    /// Retries of one request at most, 0 to 100.
    #[schemars(extend("default" = 5))]
    pub retries: Option<Text>,
    /// Where answers may come from besides the balancer, with `reply_path` direct: IP addresses, each with or
    /// without a port. Without it: from anywhere.
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
    /// Frames of a turn for one destination that share a datagram at most, up to what 65507 bytes hold: more
    /// than the default only where the path carries large datagrams, as the loopback does. Without it: as
    /// many as 1472 bytes hold.
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
    /// How a server is chosen: shortest_queue, shortest_delay, two_choices, round_robin or random.
    #[schemars(extend("default" = "shortest_queue"))]
    pub policy: Option<String>,
    /// At most so many requests at one server, 1 to 1000000, or auto: as few as keep the servers busy. The rest waits in
    /// the balancer. Without it: no limit.
    pub max_outstanding: Option<Text>,
    /// Requests that wait for a server with room at most, 0 to 1048576; more are refused with BUSY.
    #[schemars(extend("default" = 4096))]
    pub waiting_max: Option<Text>,
    /// Room for so many servers, 1 to 4096.
    #[schemars(extend("default" = 64))]
    pub servers_max: Option<Text>,
    /// How servers are judged.
    pub health: RawRules,
}

/// How the native pool's servers are judged. They report by themselves, so they are not asked.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRules {
    /// Proofs of life in a row that bring a server back, 1 to 100.
    #[schemars(extend("default" = 2))]
    pub rise: Option<Text>,
    /// Unanswered probes in a row that take a suspect down, 1 to 100.
    #[schemars(extend("default" = 5))]
    pub fall: Option<Text>,
    /// If more than this share of the servers is down or held while some are up, traffic goes to all; 0 to 1.
    #[schemars(extend("default" = 0.5))]
    pub down_max: Option<Text>,
    /// A server that fails again and again is kept away for longer each time, up to this: milliseconds, or with a unit;
    /// 0 (not at all) to 1 day.
    #[schemars(extend("default" = "5m"))]
    pub hold_down_max: Option<Text>,
    /// A server that comes up gets a tenth of its share at first and all of it after this time: milliseconds, or with a
    /// unit; 0 (all at once) to 10min.
    #[schemars(extend("default" = 0))]
    pub slow_start: Option<Text>,
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
    /// Bytes of a file before it is set aside (one old file is kept): a number, or with kB, MB, KiB, MiB;
    /// 10kB to 10000MB.
    #[schemars(extend("default" = "10MB"))]
    pub size_max: Option<Text>,
}

/// The section `admin`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawAdmin {
    /// Where it listens: IP:PORT, or off.
    #[schemars(extend("default" = "127.0.0.1:55080"))]
    pub listen: Option<String>,
    /// File with the token that changes need, mode 0600; a relative path starts at the working directory. Needed as
    /// soon as `listen` is not a loopback address. Without it each process makes one and leaves it in `state_dir`.
    pub token_file: Option<String>,
}

/// One or several words.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// One item of `pools`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawPool {
    /// Its name in logs and figures: up to 32 letters, digits, `_`, `.` and `-`. Without it: pool-1 for the
    /// first.
    pub name: Option<String>,
    /// Where clients ask: IP:PORT, [IPV6]:PORT, or *:PORT for every address of the machine; or a list of
    /// these. Needed.
    pub listen: Option<OneOrMany>,
    /// What it speaks: dns, or datagram for any request and response. Needed.
    pub protocol: Option<String>,
    /// What stays together: none, or client for all datagrams of one client.
    #[schemars(extend("default" = "none"))]
    pub affinity: Option<String>,
    /// The servers: each IP:PORT, HOST:PORT, or an object. With dns the port may be left out and is 53.
    /// Needed, unless there is `run`.
    pub servers: Option<Vec<RawPoolServer>>,
    /// Servers that `lbd controller` starts, stops and scales, beside those of `servers`. Without it: none.
    pub run: Option<RawRun>,
    /// Room for so many addresses of servers, 1 to 4096. Without it: 16, or as many as there are servers and twice as
    /// many as `run` may start.
    pub servers_max: Option<Text>,
    /// How a server is chosen: shortest_queue, shortest_delay, two_choices, round_robin or random.
    #[schemars(extend("default" = "shortest_queue"))]
    pub policy: Option<String>,
    /// At most so many requests (with affinity: flows) at one server, 1 to 1000000, or auto: as few as keep the servers
    /// busy. The rest waits in the balancer; flows are refused. Without it: no limit.
    pub max_outstanding: Option<Text>,
    /// Requests that wait for a server with room at most, 0 to 1048576; more are refused.
    #[schemars(extend("default" = 4096))]
    pub waiting_max: Option<Text>,
    /// How long an answer may take: milliseconds, or with a unit; 1ms to 1min.
    #[schemars(extend("default" = "2s"))]
    pub timeout: Option<Text>,
    /// Answers to one datagram of a client at most, 0 (one-way) to 1000000; more than 1 needs affinity.
    /// Without it: 1, with affinity any number.
    pub replies: Option<Text>,
    /// How long a port and a server that were answered rest before they serve another client: milliseconds,
    /// or with a unit; up to 10min. Without it: what the measured latency says, 50ms at least.
    pub hold: Option<Text>,
    /// How long a flow without datagrams lasts, with affinity: milliseconds, or with a unit; 10ms to 1 day.
    #[schemars(extend("default" = "120s"))]
    pub idle_timeout: Option<Text>,
    /// Local ports towards the servers, of all workers together: one a worker at least, 32768 at most.
    /// Without it: 256, with affinity 1024, with dns 16 a worker.
    pub ports: Option<Text>,
    /// Which datagrams towards a server begin with a PROXY protocol header (version 2) that names the client:
    /// off, first (of a flow, with affinity) or every.
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Option<String>,
    /// Whether servers see the client's address as the source.
    #[schemars(extend("default" = false))]
    pub transparent: Option<bool>,
    /// Who may send: IP addresses and networks such as 10.0.0.0/8. Without it: everybody.
    pub allow: Option<Vec<String>>,
    /// Who may not send, even if allowed: IP addresses and networks. Without it: nobody.
    pub deny: Option<Vec<String>>,
    /// Datagrams a second that one source (with IPv6: one /64) may send, 0.001 to 10000000. Without it: no
    /// limit.
    pub rate_per_source: Option<Text>,
    /// How servers are looked after.
    pub health: RawHealth,
    /// How often host names of servers are looked up: milliseconds, or with a unit; 1s to 1 day.
    #[schemars(extend("default" = "30s"))]
    pub resolve_interval: Option<Text>,
    /// TCP connections at a time on the same addresses, with dns, up to 100000; 0 for none. Without it: with
    /// dns 1024.
    pub tcp_connections: Option<Text>,
    /// Worker threads, 1 to 32. Without it: one for each processor that this process may use.
    pub workers: Option<Text>,
    /// Whether each worker stays on a processor of its own.
    #[schemars(extend("default" = false))]
    pub pin: Option<bool>,
    /// I/O back end: auto, mio or io_uring (Linux 6.1; mio where there is none).
    #[schemars(extend("default" = "auto"))]
    pub io: Option<String>,
}

/// One of a pool's servers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum RawPoolServer {
    /// Its address.
    Address(String),
    /// Its address, and what else there is to say of it.
    Full {
        /// IP:PORT or HOST:PORT. Needed.
        address: Option<String>,
        /// Share of the server relative to others, 1 to 100.
        #[schemars(extend("default" = 1))]
        weight: Option<Text>,
        /// Its id in logs and figures, unique in the pool. Without it: its place in the list, from 0.
        id: Option<Text>,
    },
}

/// Servers of a pool that the controller runs. The keys mean what they mean in `server`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRun {
    /// Program that is started as a server, with its arguments; {id}, {port} and {config} are filled in. Needed.
    pub command: Option<Words>,
    /// IP address on which the servers listen.
    #[schemars(extend("default" = "127.0.0.1"))]
    pub address: Option<String>,
    /// First port for servers. Needed.
    pub port_range_start: Option<Text>,
    /// Port after the last one for servers. Needed.
    pub port_range_end: Option<Text>,
    /// Id of the first server, above those of `servers`. Without it: 0, or 1000 above the highest of those.
    pub start_id: Option<Text>,
    /// Servers to start with, from `min` to `max`.
    #[schemars(extend("default" = 1))]
    pub count: Option<Text>,
    /// Never fewer servers; 0 to 4096, and not more than `count`. With `count` 0, the default is 0.
    #[schemars(extend("default" = 1))]
    pub min: Option<Text>,
    /// Never more servers; 1 to 4096. The default grows with `count`, and shrinks to what fits into the ports.
    #[schemars(extend("default" = 16))]
    pub max: Option<Text>,
    /// Requests (with affinity: flows) per server that are too many: servers are added above 0.9 of it. 0.01 to
    /// 1000000.
    #[schemars(extend("default" = 5))]
    pub threshold: Option<Text>,
    /// How long the load must be high before servers are added: milliseconds, or with a unit; 1s to 1 day.
    #[schemars(extend("default" = "1s"))]
    pub grow_after: Option<Text>,
    /// How long the load must be low before a server is stopped: milliseconds, or with a unit; 1s to 1 day.
    #[schemars(extend("default" = "3s"))]
    pub shrink_after: Option<Text>,
    /// The least time from a scaling decision to the next one that adds servers: milliseconds, or with a unit; 10ms
    /// to 1 day.
    #[schemars(extend("default" = "1s"))]
    pub grow_cool_down: Option<Text>,
    /// The same for one that stops servers.
    #[schemars(extend("default" = "1s"))]
    pub shrink_cool_down: Option<Text>,
    /// Servers that one decision adds at most, 1 to 4096. Without it: as many as there are.
    pub grow_max: Option<Text>,
    /// Servers that one decision stops at most, 1 to 4096.
    #[schemars(extend("default" = 1))]
    pub shrink_max: Option<Text>,
}

/// How a pool looks after its servers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawHealth {
    /// How a server is asked whether it lives: dns, payload, or none (only requests tell). Without it: dns
    /// with dns, else none.
    pub check: Option<String>,
    /// What a dns check asks for: a name and a type, such as `example.com A`.
    #[schemars(extend("default" = ". NS"))]
    pub query: Option<String>,
    /// What a payload check sends: a text, or bytes as in hex:0a0b; 1 to 1472 bytes.
    pub send: Option<String>,
    /// How the answer to a payload check begins: a text, or bytes as in hex:0a0b. Without it: any answer
    /// counts.
    pub expect: Option<String>,
    /// How often a server is asked: milliseconds, or with a unit; 10ms to 1h.
    #[schemars(extend("default" = "1s"))]
    pub interval: Option<Text>,
    /// How long its answer may take: milliseconds, or with a unit; 1ms to `interval`. Without it: as long as
    /// `interval`.
    pub timeout: Option<Text>,
    /// Proofs of life in a row that bring a server back, 1 to 100.
    #[schemars(extend("default" = 2))]
    pub rise: Option<Text>,
    /// Unanswered checks or requests in a row that take a suspect down, 1 to 100.
    #[schemars(extend("default" = 3))]
    pub fall: Option<Text>,
    /// If more than this share of the servers is down or held while some are up, traffic goes to all; 0 to 1.
    #[schemars(extend("default" = 0.5))]
    pub down_max: Option<Text>,
    /// A server that fails again and again is kept away for longer each time, up to this: milliseconds, or with a unit;
    /// 0 (not at all) to 1 day.
    #[schemars(extend("default" = "5m"))]
    pub hold_down_max: Option<Text>,
    /// A server that comes up gets a tenth of its share at first and all of it after this time: milliseconds, or with a
    /// unit; 0 (all at once) to 10min.
    #[schemars(extend("default" = 0))]
    pub slow_start: Option<Text>,
}

/// The schema of the file as it is written (`raw.rs`), without references, and without the `null` that stands
/// for a key left out.
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
