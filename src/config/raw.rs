//! `config.json` as it is written. Numbers may be numbers or strings; everything is optional. The readers
//! settle what the values mean, and their ranges; the defaults stated here go into the schema, and a test
//! holds the two equal.
//!
//! Keys that stand in several places are written once and flattened into each. serde cannot refuse unknown
//! keys then: `document.rs` does, by the schema. A description ends with `Required.` or `Without it: ...`
//! where a key has no constant default; `docs/CONFIGURATION.md` shows that as the default.

use std::borrow::Cow;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::document::lower_case;

/// A number, or a string that holds one (or a duration, or a size).
#[derive(Clone, Debug)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Text(text.trim().to_owned())),
            // A float of a whole number is written without its fraction.
            Value::Number(number) if number.is_f64() => {
                Ok(Text(number.as_f64().unwrap_or_default().to_string()))
            }
            Value::Number(number) => Ok(Text(number.to_string())),
            _ => Err(serde::de::Error::custom("must be a number or a string")),
        }
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
    /// Taken unmodified.
    List(Vec<String>),
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

/// One address for both sides, or one for each.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Bind {
    /// For both.
    Both(String),
    /// For each.
    Each {
        /// IP address of the client side.
        #[schemars(extend("default" = "127.0.0.1"))]
        client_side: Option<String>,
        /// IP address of the server side, for servers and the controller.
        #[schemars(extend("default" = "127.0.0.1"))]
        server_side: Option<String>,
    },
}

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(title = "lbd config.json")]
pub struct Raw {
    /// URL or path of this schema, for editors; lbd does not read it. Without it: none.
    #[serde(rename = "$schema")]
    pub schema: Option<String>,
    /// Servers of the native pool `native`.
    pub server: RawServer,
    /// Clients of `lbd up`, and the defaults of `lbd client`.
    pub client: RawClient,
    /// Balancer of the native pool `native`.
    pub load_balancer: RawBalancer,
    /// Controller of the native pool `native`.
    pub controller: RawController,
    /// Logs.
    pub logs: RawLogs,
    /// Admin interface of the balancer: status, metrics, dashboard and orders, over HTTP.
    pub admin: RawAdmin,
    /// Directory for what running processes leave to their successors (sockets, the ledger of servers), mode
    /// 0700; a relative path starts at the working directory. If another user has made `lbd-UID`, lbd uses
    /// `~/.local/state/lbd`. Without it: the service manager's `RUNTIME_DIRECTORY`, else `lbd` in
    /// `XDG_RUNTIME_DIR`, else `lbd-UID` in the directory for temporary files.
    pub state_dir: Option<String>,
    /// File with the key that authenticates frames between components: 32 hex digits, mode 0600; a relative
    /// path starts at the working directory. Required if the server side or the controller of a native pool
    /// leaves the loopback. Without it: frames have no tag.
    pub key_file: Option<String>,
    /// Pools of servers. With this key, the native pool `native` runs only if one of the sections `server`,
    /// `client`, `load_balancer` and `controller` is written too; with a native pool in the list, `client`
    /// alone does not count. Without it: the native pool `native`.
    pub pools: Option<Vec<RawPool>>,
}

/// Replicas: servers that the controller runs. Keys of `server` and of `pools[].run`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawReplicas {
    /// Servers at the start, from `min` to `max`.
    #[schemars(extend("default" = 1))]
    pub count: Option<Text>,
    /// First port for servers, 1 to 65535.
    pub port_range_start: Option<Text>,
    /// Port after the last one for servers, 2 to 65535.
    pub port_range_end: Option<Text>,
    /// Id of the first server, 0 to 2147483647.
    pub start_id: Option<Text>,
    /// Program started as a server, with its arguments: a list, or one text that is split at spaces. lbd
    /// fills in `{id}`, `{port}` and `{config}`.
    pub command: Option<Words>,
    /// Minimum number of servers, 0 to 4096, at most `count`. With `count` 0, the default is 0.
    #[schemars(extend("default" = 1))]
    pub min: Option<Text>,
    /// Maximum number of servers, 1 to 4096. The default grows with `count`, and is at most what the ports
    /// and `servers_max` allow.
    #[schemars(extend("default" = 16))]
    pub max: Option<Text>,
    /// Time that the load must be high before servers are added, up to 1 day.
    pub grow_after: Option<Text>,
    /// Time that the load must be low before a server is stopped, up to 1 day.
    #[schemars(extend("default" = "3s"))]
    pub shrink_after: Option<Text>,
    /// Default of `grow_cool_down` and `shrink_cool_down`, 10ms to 1 day.
    #[schemars(extend("default" = "1s"))]
    pub cool_down: Option<Text>,
    /// Minimum time from any scaling decision to the next one that adds servers, 10ms to 1 day. Without it:
    /// `cool_down`.
    pub grow_cool_down: Option<Text>,
    /// Minimum time from any scaling decision to the next one that stops servers, 10ms to 1 day. Without it:
    /// `cool_down`.
    pub shrink_cool_down: Option<Text>,
    /// Maximum number of servers that one decision adds, 1 to 4096. Without it: as many as there are.
    pub grow_max: Option<Text>,
    /// Maximum number of servers that one decision stops, 1 to 4096.
    #[schemars(extend("default" = 1))]
    pub shrink_max: Option<Text>,
}

/// How an lbd server works. Keys of `server` and of `pools[].run`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawServing {
    /// Share of each server relative to others, 1 to 100: with weight 2, a queue twice as long counts as
    /// equal.
    #[schemars(extend("default" = 1))]
    pub weight: Option<Text>,
    /// Simulated service time of `lbd server`: exp:5ms, fixed:1ms, bimodal:5ms or lognormal:5ms. Without it:
    /// echo at once (`lbd up`: exp:5ms).
    pub service: Option<String>,
    /// Requests that a server holds, 1 to 1048576; it refuses more with BUSY.
    #[schemars(extend("default" = 4_096))]
    pub queue_capacity: Option<Text>,
    /// Requests that a server serves concurrently, 1 to 1024.
    #[schemars(extend("default" = 1))]
    pub workers: Option<Text>,
}

/// Keys of `load_balancer` and of every pool.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawBalancing {
    /// How a server is selected: shortest_queue, shortest_delay for servers of different speed (not with
    /// affinity or `replies` 0), two_choices, round_robin or random.
    #[schemars(extend("default" = "shortest_queue"))]
    pub policy: Option<String>,
    /// Maximum outstanding requests (with affinity: flows) per server, 1 to 1000000, or auto: the lowest
    /// limit that keeps the servers busy. Excess requests queue in the balancer, excess flows are refused.
    /// Without it: no limit.
    pub max_outstanding: Option<Text>,
    /// Maximum length of the pending queue, in requests, 0 to 1048576. The balancer refuses more requests
    /// (native with BUSY, dns with SERVFAIL).
    #[schemars(extend("default" = 4_096))]
    pub waiting_max: Option<Text>,
    /// Capacity of the pool in servers, 1 to 4096.
    pub servers_max: Option<Text>,
    /// Workers, each on another thread, 1 to 32. Pools share threads if there are more workers than CPUs.
    /// Without it: one per CPU that this process may use.
    pub workers: Option<Text>,
    /// Whether each worker stays on a CPU of its own.
    #[schemars(extend("default" = false))]
    pub pin: Option<bool>,
    /// I/O back end: auto, mio, or io_uring (Linux 6.1; mio where io_uring is missing). For a native pool, of
    /// every component.
    #[schemars(extend("default" = "auto"))]
    pub io: Option<String>,
}

/// lbd's own frames. Keys of `load_balancer` and of native pools.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawFrames {
    /// Bytes of a frame, 128 (with `key_file` 160) to 1200; the header takes 112 of them.
    #[schemars(extend("default" = 256))]
    pub frame_size: Option<Text>,
    /// Maximum number of frames to one destination that share a datagram, 1 to what 65507 bytes hold. Use
    /// more than the default only on paths that carry large datagrams, such as the loopback. Without it: what
    /// 1472 bytes hold, with IPv6 addresses 1232.
    pub frames_per_datagram: Option<Text>,
    /// Path of replies: balancer, or direct from the server to the client, which costs the balancer about 0.6
    /// times as much.
    #[schemars(extend("default" = "balancer"))]
    pub reply_path: Option<String>,
}

/// How servers are judged. Keys of `load_balancer.health` and of `pools[].health`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawRules {
    /// Consecutive liveness signals that bring a server back up, 1 to 100.
    #[schemars(extend("default" = 2))]
    pub rise: Option<Text>,
    /// Consecutive unanswered probes, checks or requests that take a suspect down, 1 to 100.
    #[schemars(extend("default" = 5))]
    pub fall: Option<Text>,
    /// Fail-open limit, 0 to 1: if a larger share of the servers is down or held down while some are up, all
    /// servers get traffic.
    #[schemars(extend("default" = 0.5))]
    pub down_max: Option<Text>,
    /// Maximum hold-down time, 0 (never held down) to 1 day. A server that fails again after a few seconds in
    /// service is held down, for longer if it keeps failing.
    #[schemars(extend("default" = "5m"))]
    pub hold_down_max: Option<Text>,
    /// Time in which a server that comes up rises from a tenth of its share to all of it, 0 (all at once) to
    /// 10min.
    #[schemars(extend("default" = 0))]
    pub slow_start: Option<Text>,
}

/// The section `server`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = of_server)]
pub struct RawServer {
    /// Servers that the controller runs.
    #[serde(flatten)]
    pub replicas: RawReplicas,
    /// How each works.
    #[serde(flatten)]
    pub serving: RawServing,
    /// Interval of a server's reports, if its values changed, in milliseconds or with a unit, 1ms to 10s.
    #[schemars(extend("default" = 10))]
    pub queue_update_interval: Option<Text>,
}

fn of_server(schema: &mut Schema) {
    default(schema, "port_range_start", 50_000);
    default(schema, "port_range_end", 51_000);
    default(schema, "start_id", 0);
    default(schema, "grow_after", "500ms");
    say(schema, "command", "Without it: `lbd server`.");
    for window in ["grow_after", "shrink_after"] {
        reword(schema, window, "up to 1 day", "10ms to 1 day");
    }
}

/// The section `client`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawClient {
    /// Clients of `lbd up`, 0 to 1000.
    #[schemars(extend("default" = 10))]
    pub count: Option<Text>,
    /// First port for clients, 1 to 65535.
    #[schemars(extend("default" = 51_000))]
    pub port_range_start: Option<Text>,
    /// Port after the last one for clients, 2 to 65535.
    #[schemars(extend("default" = 52_000))]
    pub port_range_end: Option<Text>,
    /// Id of the first client, 0 to 2147483647.
    #[schemars(extend("default" = 1_000))]
    pub start_id: Option<Text>,
    /// Requests per second of all clients of `lbd up` together, 0.001 to 10000000.
    #[schemars(extend("default" = 300))]
    pub rate: Option<Text>,
    /// Minimum time before a retry, 1ms to 1min; the measured latency can make it longer. The default is at
    /// most `deadline`.
    #[schemars(extend("default" = "100ms"))]
    pub timeout: Option<Text>,
    /// Time after which a client gives a request up, from the first attempt; `timeout` to 1h.
    #[schemars(extend("default" = "2s"))]
    pub deadline: Option<Text>,
    /// Maximum number of retries of one request, 0 to 100.
    #[schemars(extend("default" = 5))]
    pub retries: Option<Text>,
    /// With `reply_path` direct: sources of replies that clients accept besides the balancer, each IP or
    /// IP:PORT. Without it: every source.
    pub servers: Option<Vec<String>>,
}

/// The section `load_balancer`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = of_balancer)]
pub struct RawBalancer {
    /// Port for servers and the controller, 1 to 65535.
    #[schemars(extend("default" = 54_000))]
    pub server_side_port: Option<Text>,
    /// Port for clients, 1 to 65535.
    #[schemars(extend("default" = 54_001))]
    pub client_side_port: Option<Text>,
    /// Requests per server that are too many, 0.01 to 1000000: servers are added above 0.9 times this number.
    #[schemars(extend("default" = 5))]
    pub server_scaling_threshold: Option<Text>,
    /// IP address of both sides, or {"client_side": IP, "server_side": IP}.
    #[schemars(extend("default" = "127.0.0.1"))]
    pub bind: Option<Bind>,
    /// Selection, limits, threads.
    #[serde(flatten)]
    pub balancing: RawBalancing,
    /// The frames.
    #[serde(flatten)]
    pub frames: RawFrames,
    /// How servers are judged.
    pub health: RawRules,
}

fn of_balancer(schema: &mut Schema) {
    default(schema, "servers_max", 64);
    reword(schema, "policy", " (not with affinity or `replies` 0)", "");
    reword(schema, "max_outstanding", " (with affinity: flows)", "");
    reword(schema, "max_outstanding", ", excess flows are refused", "");
    reword(schema, "waiting_max", " (native with BUSY, dns with SERVFAIL)", " with BUSY");
    reword(schema, "io", "For a native pool, of", "Of");
}

/// The section `controller`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawController {
    /// Port for the balancer's scaling requests, 1 to 65535.
    #[schemars(extend("default" = 55_000))]
    pub port: Option<Text>,
    /// IP address that the controller listens on.
    #[schemars(extend("default" = "127.0.0.1"))]
    pub bind: Option<String>,
}

/// The section `logs`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawLogs {
    /// Where logs go: files (one per component in `dir`), stderr, journald (standard error with priorities,
    /// for services of systemd), or off.
    #[schemars(extend("default" = "files"))]
    pub target: Option<String>,
    /// Directory of the logs; a relative path starts at the working directory.
    #[schemars(extend("default" = "logs"))]
    pub dir: Option<String>,
    /// Lowest level that is logged: error, warn, info, debug or trace.
    #[schemars(extend("default" = "info"))]
    pub level: Option<String>,
    /// Format of a line: text, or json for one object per line.
    #[schemars(extend("default" = "text"))]
    pub format: Option<String>,
    /// Size at which a log file is set aside, in bytes or with kB, MB, KiB or MiB, 10kB to 10000MB. lbd keeps
    /// one old file.
    #[schemars(extend("default" = "10MB"))]
    pub size_max: Option<Text>,
}

/// The section `admin`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RawAdmin {
    /// HTTP address of status, metrics, dashboard and orders: IP:PORT, or off. Commands of the same user and
    /// of root use a socket in `state_dir` instead, also if it is off.
    #[schemars(extend("default" = "127.0.0.1:55080"))]
    pub listen: Option<String>,
    /// File with the token that changes need: 16 to 256 characters, mode 0600; a relative path starts at the
    /// working directory. Required if `listen` leaves the loopback. Without it: each balancer makes a token
    /// and leaves it in `state_dir`.
    pub token_file: Option<String>,
}

/// One item of `pools`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = of_pool)]
pub struct RawPool {
    /// Name in logs, metrics and orders, unique: up to 32 letters, digits, `_`, `.` and `-`. Only a native
    /// pool can be called native. Without it: pool-1 for the first.
    pub name: Option<String>,
    /// Client-side addresses: IP:PORT, [IPV6]:PORT, *:PORT for every address, or a list of these. A native
    /// pool has one address. Required.
    pub listen: Option<OneOrMany>,
    /// Protocol of the servers: native for lbd's own frames, dns, or datagram for any request and response.
    /// Required.
    pub protocol: Option<String>,
    /// Native: address for servers and the controller, IP:PORT. Required.
    pub server_side: Option<String>,
    /// Native: address on which the controller takes the balancer's scaling requests, IP:PORT; goes with
    /// `run`. Without it: none.
    pub controller: Option<String>,
    /// Native: interval of a server's reports, if its values changed, in milliseconds or with a unit, 1ms to
    /// 10s.
    #[schemars(extend("default" = 10))]
    pub queue_update_interval: Option<Text>,
    /// The frames of a native pool.
    #[serde(flatten)]
    pub frames: RawFrames,
    /// Datagram: none, or client for all datagrams of a client to one server while its flow lasts.
    #[schemars(extend("default" = "none"))]
    pub affinity: Option<String>,
    /// Servers of a dns or datagram pool: each IP:PORT, HOST:PORT, or an object. With dns the port is
    /// optional, 53 without it. Servers of a native pool register themselves. Without it: none; a pool
    /// without `run` needs at least one.
    pub servers: Option<Vec<RawPoolServer>>,
    /// Servers that `lbd controller` starts, stops and scales, beside those of `servers`. Without it: none.
    pub run: Option<RawRun>,
    /// Selection, limits, threads.
    #[serde(flatten)]
    pub balancing: RawBalancing,
    /// Dns and datagram: maximum time of a response, 1ms to 1min.
    #[schemars(extend("default" = "2s"))]
    pub timeout: Option<Text>,
    /// Datagram: maximum number of responses to one datagram, 0 to 1000000; 0 is one-way, more than 1 needs
    /// affinity. Without it: 1, with affinity any number.
    pub replies: Option<Text>,
    /// Datagram: quarantine of a port and server pair after a response, before it serves another client, up
    /// to 10min. Without it: measured, 50ms or more.
    pub hold: Option<Text>,
    /// Datagram with affinity: time without datagrams after which a flow ends, 10ms to 1 day.
    #[schemars(extend("default" = "120s"))]
    pub idle_timeout: Option<Text>,
    /// Dns and datagram: time after which the flows and zone transfers of a removed server end, up to 1 day.
    /// Without it: 30s; with affinity `idle_timeout`, at most 5min.
    pub drain_timeout: Option<Text>,
    /// Dns and datagram: local ports towards the servers, of all workers together, at least one per worker,
    /// at most 32768. Without it: 256, with affinity 1024, with dns 16 per worker.
    pub ports: Option<Text>,
    /// Dns and datagram: PROXY protocol header (version 2) with the client's address: off, in every datagram
    /// towards a server, or in the first of a flow.
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Option<String>,
    /// Dns and datagram: whether servers see the client's address as the source.
    #[schemars(extend("default" = false))]
    pub transparent: Option<bool>,
    /// Dns and datagram: sources that may send, as addresses and networks such as 10.0.0.0/8. Without it:
    /// every source.
    pub allow: Option<Vec<String>>,
    /// Dns and datagram: sources that must not send, even if `allow` has them. Without it: no source.
    pub deny: Option<Vec<String>>,
    /// Dns and datagram: datagrams per second that one source (with IPv6: one /64) may send, 0.001 to
    /// 10000000; queries by TCP count too. Without it: no limit.
    pub rate_per_source: Option<Text>,
    /// Dns: of the queries above `rate_per_source`, lbd answers every n-th with TC, so that an honest client
    /// repeats it over TCP. 2 is every second query, 1 each query, 0 none; at most 1000.
    #[schemars(extend("default" = 2))]
    pub rate_limit_truncate: Option<Text>,
    /// Dns: servers that get a NOTIFY: one, or all.
    #[schemars(extend("default" = "one"))]
    pub notify: Option<String>,
    /// Datagram with affinity: maximum number of flows of one source (with IPv6: one /64), 1 to 1000000.
    /// Without it: a tenth of all pairs of a port and a server, at least 16.
    pub flows_per_source: Option<Text>,
    /// How servers are checked and judged.
    pub health: RawHealth,
    /// Dns and datagram: interval of lookups of server host names, 1s to 1 day. After a failed lookup the
    /// next ones follow sooner, the first after 1s.
    #[schemars(extend("default" = "30s"))]
    pub resolve_interval: Option<Text>,
    /// Dns: maximum number of concurrent TCP connections on the same addresses, 0 (TCP is off) to 100000.
    /// Without it: 1024.
    pub tcp_connections: Option<Text>,
    /// Dns: maximum number of concurrent TCP connections of one source (with IPv6: of one /64), 1 to 100000.
    /// Without it: a quarter of `tcp_connections`, at least 16.
    pub tcp_connections_per_source: Option<Text>,
    /// Dns: time without a query or an answer after which a TCP connection is closed, 100ms to 1 day. A zone
    /// transfer in progress is not idle.
    #[schemars(extend("default" = "30s"))]
    pub tcp_idle_timeout: Option<Text>,
}

fn of_pool(schema: &mut Schema) {
    say(
        schema,
        "servers_max",
        "Without it: native 64; else 16, or the number of `servers` plus twice `run.max` if that is more.",
    );
    for key in ["frame_size", "frames_per_datagram", "reply_path"] {
        prefix(schema, key, "Native: ");
    }
}

/// One of a pool's servers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RawPoolServer {
    /// Its address.
    Address(String),
    /// Its address, and more.
    Full {
        /// IP:PORT or HOST:PORT. Required.
        address: Option<String>,
        /// Share of the server relative to others, 1 to 100.
        #[schemars(extend("default" = 1))]
        weight: Option<Text>,
        /// Id of the server in logs and metrics, unique in the pool, 0 to 2147483647. Without it: its
        /// position in the list, from 0.
        id: Option<Text>,
    },
}

/// Servers of a pool that the controller runs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = of_run)]
pub struct RawRun {
    /// Servers that the controller runs.
    #[serde(flatten)]
    pub replicas: RawReplicas,
    /// How each works.
    #[serde(flatten)]
    pub serving: RawServing,
    /// Dns and datagram: IP address that the servers listen on.
    #[schemars(extend("default" = "127.0.0.1"))]
    pub address: Option<String>,
    /// Requests (with affinity: flows) per server that are too many, 0.01 to 1000000: servers are added above
    /// 0.9 times this number.
    #[schemars(extend("default" = 5))]
    pub threshold: Option<Text>,
}

fn of_run(schema: &mut Schema) {
    say(schema, "command", "Required; native: `lbd server`.");
    say(schema, "port_range_start", "Required.");
    say(schema, "port_range_end", "Required.");
    say(schema, "start_id", "Without it: 0, or 1000 above the highest id of `servers`.");
    for window in ["grow_after", "shrink_after"] {
        reword(schema, window, "up to 1 day", "1s (native 10ms) to 1 day");
    }
    say(schema, "grow_after", "Without it: 1s, native 500ms.");
    for key in ["weight", "service", "queue_capacity", "workers"] {
        prefix(schema, key, "Native: ");
    }
}

/// How a pool checks and judges its servers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(transform = of_health)]
pub struct RawHealth {
    /// Active health check of a dns or datagram pool: dns, payload, or none (passive signals only). Without
    /// it: dns with dns, else none.
    pub check: Option<String>,
    /// Question of a dns check: a name and a type, such as `example.com A`.
    #[schemars(extend("default" = ". NS"))]
    pub query: Option<String>,
    /// RCODEs of answers to a dns check that mean alive, such as `["NOERROR", "REFUSED"]`; at least one. Any
    /// other answer is a failed check.
    #[schemars(extend("default" = ["NOERROR", "NXDOMAIN"]))]
    pub rcodes: Option<Vec<String>>,
    /// Content of a payload check, 1 to 1472 bytes: a text, or bytes as in hex:0a0b. Required for a payload
    /// check.
    pub send: Option<String>,
    /// First bytes of a valid response to a payload check, in the same form. Without it: any response.
    pub expect: Option<String>,
    /// Dns and datagram: interval of the checks of a server, 10ms to 1h. A server that is up and has answered
    /// a client within that time is not checked.
    #[schemars(extend("default" = "1s"))]
    pub interval: Option<Text>,
    /// Dns and datagram: maximum time of a response to a check, 1ms to `interval`. Without it: `interval`.
    pub timeout: Option<Text>,
    /// How servers are judged.
    #[serde(flatten)]
    pub rules: RawRules,
}

fn of_health(schema: &mut Schema) {
    if let Some(fall) = property(schema, "fall") {
        fall.remove("default");
    }
    say(schema, "fall", "Without it: 3, native 5.");
}

/// A key of an object.
fn property<'s>(schema: &'s mut Schema, key: &str) -> Option<&'s mut serde_json::Map<String, Value>> {
    schema.get_mut("properties")?.get_mut(key)?.as_object_mut()
}

/// Sets the default of a key whose default is another elsewhere.
fn default(schema: &mut Schema, key: &str, value: impl Into<Value>) {
    if let Some(property) = property(schema, key) {
        property.insert("default".to_owned(), value.into());
    }
}

/// Adds a sentence to the description of a key.
fn say(schema: &mut Schema, key: &str, sentence: &str) {
    describe(schema, key, |text| format!("{text} {sentence}"));
}

/// Replaces words in the description of a key.
fn reword(schema: &mut Schema, key: &str, from: &str, to: &str) {
    describe(schema, key, |text| {
        debug_assert!(unwrapped(text).contains(from), "{key}: {text}");
        unwrapped(text).replace(from, to)
    });
}

/// A description as one line.
fn unwrapped(text: &str) -> String {
    text.replace('\n', " ")
}

/// Puts words before the description of a key.
fn prefix(schema: &mut Schema, key: &str, words: &str) {
    describe(schema, key, |text| words.to_owned() + &lower_case(text));
}

fn describe(schema: &mut Schema, key: &str, change: impl FnOnce(&str) -> String) {
    if let Some(Value::String(text)) =
        property(schema, key).and_then(|property| property.get_mut("description"))
    {
        *text = change(text);
    }
}

/// The schema of the file as it is written: without references, without the `null` of a key that is left out,
/// and without room for unknown keys.
pub fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(make_schema);
    &SCHEMA
}

fn make_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Raw>().to_value();
    settle(&mut schema);
    schema
}

/// Drops what says only that a key may be left out, and closes each object to other keys.
fn settle(node: &mut Value) {
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
            if map.get("type") == Some(&"object".into()) && map.contains_key("properties") {
                map.insert("additionalProperties".to_owned(), false.into());
            }
            map.values_mut().for_each(settle);
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}
