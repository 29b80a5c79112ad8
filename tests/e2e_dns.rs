//! DNS pools: the real balancer before servers that know nothing of it, well-behaved and not.

mod common;

use std::io::Read;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::fake_dns::{
    FakeDns, FakeDnsTcp, Manner, SERVFAIL, answer, ask, ask_many, connect, connect_from, id, long_answer,
    query, rcode, read_message, write_message,
};
use common::fakes::{Asker, Fake, proxy_header, v4, v6};
use common::{Finished, Running, Site, assert_adds_up, wait_for};
use lbd::admin::status::{PoolStatus, Status};
use serde_json::{Value, json};

/// A query of a test counts as lost after this time. The balancer's timeout is 2 s.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Fakes on the ports 1, 2, ... of a site, with these numbers.
fn fakes(site: &Site, count: u8) -> Vec<FakeDns> {
    (1..=count).map(|n| FakeDns::start(n, v4(site.port(n.into())))).collect()
}

fn addrs(servers: &[FakeDns]) -> Vec<String> {
    servers.iter().map(|server| server.addr().to_string()).collect()
}

/// A pool on port 0 of the site before these servers, with more keys.
fn pool(site: &Site, servers: &[FakeDns], more: Value) -> Value {
    let mut pool = json!({
        "listen": v4(site.port(0)).to_string(),
        "protocol": "dns",
        "servers": addrs(servers),
        "workers": 1,
    });
    pool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!([pool])
}

/// A pool with `count` servers, and a client.
fn started(count: u8, more: Value) -> (Site, Vec<FakeDns>, Running, Asker) {
    let site = Site::new(json!({}));
    let servers = fakes(&site, count);
    let balancer = site.pools(pool(&site, &servers, more));
    let client = Asker::to(v4(site.port(0)));
    (site, servers, balancer, client)
}

#[track_caller]
fn assert_refused(finished: &Finished, why: &str) {
    assert!(finished.code == 2 && finished.stderr.contains(why), "{why}: {finished:?}");
    assert!(finished.stdout.is_empty(), "{finished:?}");
}

#[test]
fn a_pool_from_the_command_line_serves_and_shows_its_figures_at_the_end_and_when_asked() {
    let site = Site::new(json!({}));
    let servers = fakes(&site, 2);
    let (listen, addrs) = (v4(site.port(0)).to_string(), addrs(&servers));
    let words =
        ["balancer", "--listen", &listen, "--protocol", "dns", "--server", &addrs[0], "--server", &addrs[1]];
    let mut balancer = site.start_bare(&words);
    balancer.wait_for_word(&format!("pool pool-1: dns on {listen}, 2 servers"));
    let client = Asker::to(v4(site.port(0)));
    let tally = ask_many(&client, 200, 8, GIVE_UP);
    assert_eq!((tally.answered, tally.servfail, tally.lost), (200, 0, 0));
    assert!(tally.by_server[1] > 0 && tally.by_server[2] > 0, "{tally:?}");
    assert_eq!(balancer.stdout(), "", "no output without a request for it");

    balancer.signal(libc::SIGUSR1);
    let look = || balancer.stdout().lines().next().map(str::to_owned);
    let line = wait_for("figures", look, || balancer.stderr());
    let asked: Status = serde_json::from_str(&line).unwrap();
    assert_eq!(asked.pools[0].answered, 200);
    assert_adds_up(&asked.pools[0]);
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (value["pools"].as_array().map(Vec::len), &value["requests"]),
        (Some(1), &json!(0)),
        "{value}"
    );

    let last = balancer.stop();
    assert_eq!((last.pools[0].received, last.pools[0].answered), (200, 200));
    assert_adds_up(&last.pools[0]);
    let p = &last.pools[0].latency_us;
    assert!(0 < p.p50 && p.p50 <= p.p90 && p.p90 <= p.p99 && p.p99 <= p.p999, "{p:?}");
}

/// At the start, every client that finds the port open is served.
#[test]
fn no_query_is_refused_while_the_balancer_starts() {
    let site = Site::new(json!({}));
    let servers = fakes(&site, 1);
    for workers in [1, 4, 1, 4] {
        let balancer = site.start_pools(&pool(&site, &servers, json!({ "workers": workers })), &["--quiet"]);
        let client = Asker::to(v4(site.port(0)));
        client.0.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut buffer = [0; 512];
        // While no process listens, the kernel reports an error at once.
        let look = || client.0.send(&query(7)).and_then(|_| client.0.recv(&mut buffer)).ok();
        let len = wait_for("an answer", look, || balancer.stderr());
        assert_eq!(rcode(&buffer[..len]), 0, "{workers} workers");
    }
}

#[test]
fn a_native_pool_and_a_dns_pool_live_in_one_process() {
    let site = Site::new(json!({}));
    let servers = fakes(&site, 2);
    let mut config: Value =
        serde_json::from_str(&std::fs::read_to_string(site.path().join("config.json")).unwrap()).unwrap();
    config["pools"] = pool(&site, &servers, json!({}));
    site.write("config.json", &config.to_string());
    let (balancer, _server) = site.pool(1, &[]);
    let native = site.client(&["--requests", "3000"]);
    let client = Asker::to(v4(site.port(0)));
    let tally = ask_many(&client, 3000, 16, GIVE_UP);
    assert_eq!((tally.answered, tally.lost), (3000, 0), "{tally:?}");
    let (code, summary) = native.summary();
    assert_eq!((code, summary.answered, summary.retried), (0, 3000, 0));
    let last = balancer.stop();
    let [native, dns] = &last.pools[..] else { panic!("{last:?}") };
    assert_eq!((native.answered, dns.answered), (3000, 3000));
    assert_adds_up(dns);
}

#[test]
fn the_answer_comes_from_the_address_that_was_asked() {
    for io in ["mio", "io_uring"] {
        let site = Site::new(json!({}));
        let front = site.port(0);
        let servers = vec![FakeDns::start(1, v4(site.port(1))), FakeDns::start(2, v6(site.port(1)))];
        let more = json!({"listen": format!("*:{front}"), "policy": "round_robin", "io": io});
        let balancer = site.pools(pool(&site, &servers, more));
        let mut numbers = vec![];
        for asked in ["127.0.0.1", "127.0.0.5", "::1", "127.99.0.1"] {
            let asked: IpAddr = asked.parse().unwrap();
            // A connected socket: it would not hear another address.
            let client = Asker::to((asked, front).into());
            numbers.extend((0..4).map(|id| ask(&client, id)));
            TcpStream::connect((asked, front)).expect("TCP listens there as well");
        }
        assert!(numbers.contains(&1) && numbers.contains(&2), "servers of both families: {numbers:?}");
        let last = balancer.stop();
        assert_eq!(last.pools[0].answered, 16);
        assert_adds_up(&last.pools[0]);
    }
}

#[test]
fn ipv6_clients_and_servers() {
    let site = Site::new(json!({}));
    let servers = vec![FakeDns::start(1, v6(site.port(1)))];
    let listen = v6(site.port(0));
    let balancer = site.pools(pool(&site, &servers, json!({"listen": listen.to_string()})));
    let tally = ask_many(&Asker::to(listen), 500, 8, GIVE_UP);
    assert_eq!((tally.answered, tally.lost), (500, 0));
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn long_and_truncated_answers_pass_as_they_are() {
    let (site, servers, balancer, client) = started(1, json!({}));
    let _tcp = FakeDnsTcp::start(servers[0].addr(), 40_000);
    for len in [512, 1_232, 1_473, 4_096] {
        servers[0].be(Manner::Long(len));
        let answer = client.ask(&query(3));
        assert!(answer.len() == len && answer == long_answer(&query(3), len), "{len} bytes");
    }
    servers[0].be(Manner::Truncated);
    let answer = client.ask(&query(4));
    assert_eq!((id(&answer), answer[2] & 0x02), (4, 0x02), "TC");
    let mut stream = connect(v4(site.port(0)));
    write_message(&mut stream, &query(4)).unwrap();
    let full = read_message(&mut stream).expect("an answer");
    assert_eq!((full.len(), id(&full)), (40_000, 4));
    drop(stream);
    balancer.pool_when("the connection has ended", |pool| {
        pool.datagram.unwrap().tcp_open == 0 && pool.datagram.unwrap().tcp_opened == 1
    });
    let last = balancer.stop();
    let counters = last.pools[0].datagram.unwrap();
    assert_eq!((last.pools[0].answered, counters.tcp_queries, counters.tcp_refused), (6, 1, 0));
    assert_adds_up(&last.pools[0]);
}

#[test]
fn answers_that_nobody_asked_for_are_counted_and_the_wait_goes_on() {
    let (_site, servers, balancer, client) = started(1, json!({}));
    for (manner, reason) in [
        (Manner::Twice, "not_open"),
        (Manner::WrongIdFirst, "not_open"),
        (Manner::WrongQuestionFirst, "wrong_question"),
    ] {
        let before = balancer.status().pools[0].dropped.get(reason).copied().unwrap_or(0);
        servers[0].be(manner);
        assert_eq!(ask(&client, 9), 1, "{manner:?}");
        let seen = |pool: &PoolStatus| pool.dropped.get(reason) == Some(&(before + 1));
        balancer.pool_when(reason, seen);
        assert!(!client.has_more(), "{manner:?}");
    }
    let last = balancer.stop();
    assert_eq!((last.pools[0].answered, last.pools[0].datagram.unwrap().delivered), (3, 3));
    assert_eq!(last.pools[0].servers[0].state, "up");
    assert_adds_up(&last.pools[0]);
}

#[test]
fn an_answer_after_the_time_out_reaches_nobody() {
    let (_site, servers, balancer, client) = started(1, json!({"timeout": "50ms"}));
    servers[0].be(Manner::Holds);
    client.send(&query(1));
    balancer.pool_when("it is given up", |pool| pool.datagram.unwrap().timed_out == 1);
    servers[0].release();
    balancer.pool_when("the answer is dropped", |pool| pool.dropped.get("not_open") == Some(&1));
    assert!(!client.has_more());
    let last = balancer.stop();
    assert_eq!((last.pools[0].datagram.unwrap().timed_out, last.pools[0].answered), (1, 0));
    assert_adds_up(&last.pools[0]);
}

#[test]
fn what_is_no_query_is_dropped_by_reason() {
    let (_site, servers, balancer, client) = started(1, json!({}));
    client.send(b"short");
    let mut response = query(1);
    response[2] |= 0x80;
    client.send(&response);
    let refused = |pool: &PoolStatus| pool.refused.values().sum::<u64>() == 2;
    let pool = balancer.pool_when("both refused", refused);
    assert_eq!(pool.refused.get("an_answer"), Some(&1), "{pool:?}");
    assert_eq!(ask(&client, 2), 1);
    assert_eq!(servers[0].queries(), 1);
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn idle_tcp_connections_count_at_no_server() {
    let (site, servers, balancer, client) = started(2, json!({"max_outstanding": 1, "waiting_max": 0}));
    let tcp: Vec<_> = servers.iter().map(|server| FakeDnsTcp::start(server.addr(), 600)).collect();
    let open: Vec<TcpStream> = (0..6).map(|id| answered_by_tcp(v4(site.port(0)), id)).collect();
    let accepted: u64 = tcp.iter().map(FakeDnsTcp::accepted).sum();
    assert!((1..=2).contains(&accepted), "{accepted} connections to two servers");
    let pool = balancer.pool_when("six are open", |pool| pool.datagram.unwrap().tcp_open == 6);
    assert_eq!((pool.datagram.unwrap().tcp_opened, pool.answered), (6, 6));
    assert!(pool.servers.iter().all(|server| server.queue == 0), "{pool:?}");
    assert_eq!(ask_many(&client, 50, 1, GIVE_UP).answered, 50, "both servers serve queries by UDP");
    drop(open);
    balancer.pool_when("all is closed", |pool| pool.datagram.unwrap().tcp_open == 0);
    assert_adds_up(&balancer.stop().pools[0]);
}

/// Each connection costs its place, less than 10 KiB, and nothing at the servers.
#[test]
fn many_idle_tcp_connections_take_little_memory() {
    let more = json!({"tcp_connections": 2_000, "tcp_connections_per_source": 2_000});
    let (site, servers, balancer, _client) = started(1, more);
    let tcp = FakeDnsTcp::start(servers[0].addr(), 60);
    let first = answered_by_tcp(v4(site.port(0)), 1);
    let before = balancer.memory_kib();
    let open: Vec<TcpStream> = (0..400).map(|id| answered_by_tcp(v4(site.port(0)), id)).collect();
    let grown = balancer.memory_kib() - before;
    assert!(grown < 10 * 400, "{grown} KiB");
    assert_eq!(tcp.accepted(), 1);
    drop((first, open));
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn queries_by_tcp_are_pipelined_and_each_is_answered() {
    let (site, servers, balancer, _client) = started(2, json!({}));
    let _tcp: Vec<_> = servers.iter().map(|server| FakeDnsTcp::start(server.addr(), 3_000)).collect();
    let mut stream = connect(v4(site.port(0)));
    let mut writer = stream.try_clone().unwrap();
    // The answers are more than the sockets hold, so both ends must wait at times.
    let asker = std::thread::spawn(move || {
        (0..3_000).for_each(|id| write_message(&mut writer, &query(id)).unwrap());
    });
    let mut ids: Vec<u16> = (0..3_000)
        .map(|_| {
            let message = read_message(&mut stream).expect("an answer");
            assert_eq!(message, long_answer(&query(id(&message)), 3_000));
            id(&message)
        })
        .collect();
    asker.join().unwrap();
    ids.sort_unstable();
    assert_eq!(ids, (0..3_000).collect::<Vec<_>>());
    drop(stream);
    let last = balancer.stop();
    assert_eq!((last.pools[0].received, last.pools[0].answered), (3_000, 3_000));
    assert_adds_up(&last.pools[0]);
}

#[test]
fn a_tcp_connection_ends_between_two_messages_when_the_balancer_does() {
    let (site, servers, mut balancer, _client) = started(1, json!({}));
    let listener = TcpListener::bind(servers[0].addr()).unwrap();
    let mut stream = connect(v4(site.port(0)));
    write_message(&mut stream, &query(6)).unwrap();
    let (mut taken, _) = listener.accept().unwrap();
    let at_server = read_message(&mut taken).expect("the query");
    balancer.signal(libc::SIGTERM);
    let mut idle = connect(v4(site.port(0)));
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0, "no query is taken any more");
    write_message(&mut taken, &long_answer(&at_server, 60)).unwrap();
    assert_eq!(read_message(&mut stream), Some(long_answer(&query(6), 60)));
    assert_eq!(read_message(&mut stream), None, "the end");
    assert_eq!(balancer.finish().code, 0);
}

#[test]
fn a_drained_server_gets_no_query_over_connections_that_are_open() {
    let (site, servers, balancer, _client) = started(2, json!({}));
    let tcp: Vec<_> = servers.iter().map(|server| FakeDnsTcp::start(server.addr(), 60)).collect();
    let mut stream = connect(v4(site.port(0)));
    let mut ask = |number: u16| {
        write_message(&mut stream, &query(number)).unwrap();
        assert_eq!(read_message(&mut stream), Some(long_answer(&query(number), 60)));
    };
    (0..8).for_each(&mut ask);
    let file = site.path().join("pools.json");
    let words = ["drain", "0", "--wait", "10s", "--config", file.to_str().expect("a plain path")];
    let drained = site.start_bare(&words).finish();
    assert_eq!(drained.code, 0, "{drained:?}");
    let asked = tcp[0].asked();
    (8..16).for_each(&mut ask);
    assert_eq!(tcp[0].asked(), asked);
    assert_adds_up(&balancer.stop().pools[0]);
}

/// A connection that has carried a query and its answer.
#[track_caller]
fn answered_by_tcp(to: SocketAddr, number: u16) -> TcpStream {
    let mut stream = connect(to);
    write_message(&mut stream, &query(number)).unwrap();
    assert_eq!(read_message(&mut stream).map(|message| id(&message)), Some(number));
    stream
}

#[test]
fn a_server_that_refuses_tcp_is_passed_over() {
    let (site, servers, balancer, _client) = started(2, json!({}));
    let tcp = FakeDnsTcp::start(servers[1].addr(), 600);
    // The first server has the shorter queue each time.
    let open: Vec<TcpStream> = (0..6).map(|id| answered_by_tcp(v4(site.port(0)), id)).collect();
    assert_eq!((open.len(), tcp.asked()), (6, 6));
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn with_no_server_that_accepts_tcp_the_answer_is_servfail_with_opt() {
    let (site, _servers, balancer, _client) = started(2, json!({}));
    let mut stream = connect(v4(site.port(0)));
    for n in 0..3 {
        write_message(&mut stream, &query(n)).unwrap();
        let answer = read_message(&mut stream).expect("an answer of the balancer");
        assert_eq!((id(&answer), rcode(&answer), answer[11]), (n, SERVFAIL, 1));
    }
    drop(stream);
    balancer.pool_when("they are counted", |pool| pool.refused.get("no_server") == Some(&3));
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn a_client_that_says_it_has_asked_all_by_tcp_is_still_answered() {
    let (site, servers, balancer, _client) = started(1, json!({}));
    let _tcp = FakeDnsTcp::start(servers[0].addr(), 600);
    let mut stream = connect(v4(site.port(0)));
    write_message(&mut stream, &query(1)).unwrap();
    write_message(&mut stream, &query(2)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut ids = [read_message(&mut stream), read_message(&mut stream)].map(|message| id(&message.unwrap()));
    ids.sort_unstable(); // they may come in any order
    assert_eq!(ids, [1, 2]);
    assert_eq!(read_message(&mut stream), None, "the end");
    balancer.pool_when("it has ended", |pool| {
        pool.datagram.unwrap().tcp_open == 0 && pool.datagram.unwrap().tcp_opened == 1
    });
}

/// Of a PROXY header: IPv4 and TCP, IPv4 and UDP.
const STREAM: u8 = 0x11;
const DATAGRAM: u8 = 0x12;

#[test]
fn a_proxy_header_names_the_client_to_a_dns_server() {
    let site = Site::new(json!({}));
    let addr = v4(site.port(1));
    let server = Fake::start(addr, |bytes, _| vec![answer(&bytes[28..], 1)]);
    let listener = TcpListener::bind(addr).unwrap();
    let more = json!({"servers": [addr.to_string()], "proxy_protocol": "every", "health": {"check": "none"}});
    let balancer = site.pools(pool(&site, &[], more));
    let front = v4(site.port(0));
    let client = Asker::from(([127, 0, 0, 9], 0).into(), front);
    assert_eq!(ask(&client, 5), 1);
    assert!(server.seen()[0].bytes.starts_with(&proxy_header(DATAGRAM, client.addr(), front)));

    let mut stream = connect(front);
    write_message(&mut stream, &query(6)).unwrap();
    let (mut taken, _) = listener.accept().unwrap();
    let mut header = [0; 28];
    taken.read_exact(&mut header).unwrap();
    assert_eq!(header[..], proxy_header(STREAM, stream.local_addr().unwrap(), front));
    let at_server = read_message(&mut taken).expect("the query");
    assert_eq!(at_server[2..], query(6)[2..]);
    write_message(&mut taken, &answer(&at_server, 1)).unwrap();
    assert_eq!(read_message(&mut stream), Some(answer(&query(6), 1)));
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn the_oldest_idle_tcp_connection_makes_room_and_a_source_has_its_share() {
    let more = json!({"tcp_connections": 3, "tcp_connections_per_source": 2});
    let (site, servers, balancer, _client) = started(1, more);
    let _tcp = FakeDnsTcp::start(servers[0].addr(), 600);
    let mut first = answered_by_tcp(v4(site.port(0)), 1);
    let second = answered_by_tcp(v4(site.port(0)), 2);
    let mut third = connect(v4(site.port(0)));
    assert_eq!(third.read(&mut [0]).unwrap_or(0), 0, "closed: two of one source");
    balancer.pool_when("it is counted", |pool| pool.datagram.unwrap().tcp_refused == 1);
    let others: Vec<_> = [2, 3].map(|n| connect_from([127, 0, 0, n], v4(site.port(0)))).into();
    assert_eq!(first.read(&mut [0]).unwrap_or(0), 0, "closed for another one");
    balancer.pool_when("three are open", |pool| pool.datagram.unwrap().tcp_open == 3);
    drop((second, others));
}

#[test]
fn without_tcp_nobody_listens() {
    let (site, _servers, _balancer, client) = started(1, json!({"tcp_connections": 0}));
    assert!(TcpStream::connect(v4(site.port(0))).is_err());
    assert_eq!(ask(&client, 1), 1);
}

#[test]
fn with_every_server_down_the_answer_is_servfail_at_once() {
    let site = Site::new(json!({}));
    let servers: Vec<String> = (1..=2).map(|n| v4(site.port(n)).to_string()).collect(); // closed
    let health = json!({"interval": "50ms"});
    let pools = pool(&site, &[], json!({"servers": servers, "health": health}));
    let balancer = site.start_pools(&pools, &["--status-every", "50ms"]);
    let down = |pool: &PoolStatus| {
        pool.servers.len() == 2 && pool.servers.iter().all(|server| server.state == "down")
    };
    balancer.pool_when("both down", down);
    let tally = ask_many(&Asker::to(v4(site.port(0))), 20, 4, GIVE_UP);
    assert_eq!((tally.servfail, tally.lost), (20, 0));
    let server = FakeDns::start(1, v4(site.port(1)));
    balancer.pool_when("one is up", |pool| pool.servers[0].state == "up");
    assert_eq!(ask(&Asker::to(v4(site.port(0))), 1), 1);
    drop(server);
    let last = balancer.stop();
    assert_eq!(
        (last.pools[0].datagram.unwrap().servfail, last.pools[0].refused.get("no_server")),
        (20, Some(&20))
    );
    assert_adds_up(&last.pools[0]);
}

#[test]
fn a_pool_whose_servers_answer_no_check_serves_and_is_ready_after_its_first_answer() {
    let site = Site::new(json!({}));
    let servers = fakes(&site, 2);
    servers.iter().for_each(|server| server.be(Manner::IgnoresChecks));
    let pools = pool(&site, &servers, json!({"health": {"interval": "50ms"}}));
    let balancer = site.start_pools(&pools, &["--status-every", "50ms"]);
    balancer.pool_when("both are down", |pool| {
        pool.servers.len() == 2 && pool.servers.iter().all(|server| server.state == "down")
    });
    let client = Asker::to(v4(site.port(0)));
    let tally = ask_many(&client, 500, 8, GIVE_UP);
    assert_eq!((tally.answered, tally.servfail, tally.lost), (500, 0, 0));
    assert!(tally.by_server[1] > 0 && tally.by_server[2] > 0, "{tally:?}");
    balancer
        .pool_when("the checks are ignored", |pool| pool.datagram.unwrap().checks_ignored && pool.up() == 2);
    balancer.wait_until("ready", |status| status.ready);
    let log = || site.log("balancer/balancer.log");
    wait_for("a warning", || log().contains("health checks ignored").then_some(()), log);
    servers[0].be(Manner::Proper);
    balancer.pool_when("the checks count again", |pool| {
        let states: Vec<&str> = pool.servers.iter().map(|server| &*server.state).collect();
        !pool.datagram.unwrap().checks_ignored && states == ["up", "down"]
    });
    assert_eq!(log().matches("WARN health checks ignored").count(), 1, "{}", log());
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn a_server_that_fails_its_queries_is_a_suspect_and_is_counted() {
    let (_site, servers, balancer, client) = started(2, json!({}));
    servers[0].be(Manner::Fails);
    // The servers are compared every 10 ms, whatever the number of queries meanwhile.
    const QUERIES: u16 = 20_000;
    let tally = ask_many(&client, QUERIES, 8, GIVE_UP);
    assert_eq!(tally.lost, 0);
    assert!((1..u64::from(QUERIES) / 20).contains(&tally.servfail), "{tally:?}");
    let seen = balancer.pool_when("it is a suspect", |pool| pool.servers[0].state == "suspect");
    assert_eq!(seen.servers[0].failed_answers, tally.servfail, "{seen:?}");
    assert_eq!(seen.servers[1].state, "up");
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn beyond_max_outstanding_the_answer_is_servfail_at_once() {
    let (_site, servers, balancer, client) =
        started(1, json!({"max_outstanding": 2, "waiting_max": 0, "timeout": "1min"}));
    servers[0].be(Manner::Holds);
    client.send(&query(1));
    client.send(&query(2));
    balancer.pool_when("two are in flight", |pool| pool.datagram.unwrap().in_flight == 2);
    let refused = client.ask(&query(3));
    assert_eq!((id(&refused), rcode(&refused)), (3, SERVFAIL));
    wait_for("the server has both", || (servers[0].held() == 2).then_some(()), String::new);
    servers[0].release();
    let mut ids = [id(&client.recv()), id(&client.recv())];
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    servers[0].be(Manner::Proper);
    assert_eq!(ask(&client, 4), 1);
    let last = balancer.stop();
    assert_eq!(
        (last.pools[0].datagram.unwrap().servfail, last.pools[0].refused.get("servers_full")),
        (1, Some(&1))
    );
    assert_adds_up(&last.pools[0]);
}

/// Queries continue while a server ends (`end`): only a few of its own are lost. Then it returns (`back`).
fn a_server_dies(end: impl FnOnce(&mut Vec<Option<FakeDns>>), back: impl FnOnce(&mut Vec<Option<FakeDns>>)) {
    const QUERIES: u16 = 20_000;
    let (site, servers, balancer, client) = started(4, json!({"health": {"interval": "200ms"}}));
    let mut servers: Vec<Option<FakeDns>> = servers.into_iter().map(Some).collect();
    let asking = std::thread::spawn(move || ask_many(&client, QUERIES, 32, GIVE_UP));
    let served = || servers[2].as_ref().is_some_and(|server| server.queries() > 1_000).then_some(());
    wait_for("it has served some", served, String::new);
    end(&mut servers);
    let tally = asking.join().unwrap();
    assert_eq!((tally.answered + tally.lost, tally.servfail), (u64::from(QUERIES), 0));
    assert!(tally.lost <= 64, "a handful, not {tally:?}");
    balancer.pool_when("it is down", |pool| {
        pool.servers[2].state == "down" && pool.datagram.unwrap().in_flight == 0
    });
    back(&mut servers);
    let seen = balancer.pool_when("it is up again", |pool| pool.servers[2].state == "up");
    for server in &seen.servers {
        assert!(
            server.id == 2 || server.datagram.unwrap().timed_out == 0,
            "the others are undisturbed: {seen:?}"
        );
    }
    let tally = ask_many(&Asker::to(v4(site.port(0))), 400, 32, GIVE_UP);
    assert!(tally.lost == 0 && tally.by_server[3] > 0, "it has its share again: {tally:?}");
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn a_server_that_falls_silent_costs_a_handful_and_comes_back() {
    let be = |manner| move |servers: &mut Vec<Option<FakeDns>>| servers[2].as_ref().unwrap().be(manner);
    a_server_dies(be(Manner::Silent), be(Manner::Proper));
}

#[test]
fn a_server_whose_port_closes_costs_a_handful_and_comes_back() {
    let addr = std::cell::Cell::new(v4(0));
    a_server_dies(
        |servers| addr.set(servers[2].take().unwrap().addr()),
        |servers| servers[2] = Some(FakeDns::start(3, addr.get())),
    );
}

#[test]
fn a_host_name_is_looked_up() {
    let site = Site::new(json!({}));
    let port = site.port(1);
    let _servers = [FakeDns::start(1, v4(port)), FakeDns::start(2, v6(port))];
    let pools = pool(&site, &[], json!({"servers": [format!("localhost:{port}")]}));
    let balancer = site.pools(pools);
    let client = Asker::to(v4(site.port(0)));
    let tally = ask_many(&client, 50, 4, GIVE_UP);
    assert_eq!((tally.answered, tally.lost), (50, 0));
    let last = balancer.stop();
    for server in &last.pools[0].servers {
        assert!(server.addr.parse::<SocketAddr>().unwrap().ip().is_loopback(), "{last:?}");
    }
    assert_adds_up(&last.pools[0]);
}

#[test]
fn a_pool_that_cannot_run_is_refused_with_exit_code_2() {
    let site = Site::new(json!({}));
    let front = site.port(0);
    let with = |more: Value| site.start_pools(&pool(&site, &[], more), &[]).finish();
    let itself = with(json!({"servers": [format!("127.0.0.1:{front}")]}));
    assert_refused(&itself, &format!("127.0.0.1:{front} is where this pool itself listens"));
    let by_name = json!({"listen": format!("*:{front}"), "servers": [format!("localhost:{front}")]});
    assert_refused(&with(by_name), &format!("localhost:{front} is where this pool itself listens"));
    let words = ["balancer", "--listen", &format!("*:{front}"), "--protocol", "dns", "--server"];
    let itself = site.start_bare(&[&words[..], &[&format!("[::1]:{front}")]].concat()).finish();
    assert_refused(&itself, "is where this pool itself listens");
}

#[test]
fn an_address_in_use_is_refused_with_exit_code_2() {
    let site = Site::new(json!({}));
    let front = v4(site.port(0));
    for workers in [1, 2] {
        let pools = pool(&site, &[], json!({"servers": ["127.0.0.1:9"], "workers": workers}));
        let udp = std::net::UdpSocket::bind(front).unwrap();
        let finished = site.start_pools(&pools, &[]).finish();
        assert_refused(&finished, &format!("cannot bind {front}: Address already in use"));
        drop(udp);
        let tcp = TcpListener::bind(front).unwrap();
        let finished = site.start_pools(&pools, &[]).finish();
        assert_refused(&finished, &format!("cannot listen on {front} (TCP): Address already in use"));
        drop(tcp);
        // Another balancer of the same user.
        let first = site.start_pools(&pools, &[]);
        first.wait_for_word("pool pool-1");
        let finished = site.start_pools(&pools, &[]).finish();
        assert_refused(&finished, &format!("cannot bind {front}: Address already in use"));
    }
}

#[test]
fn several_workers_share_the_work_and_their_accounts_add_up() {
    let (site, servers, balancer, _client) = started(3, json!({"workers": 4}));
    // The kernel spreads clients over the workers by their ports.
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let client = Asker::to(v4(site.port(0)));
            std::thread::spawn(move || ask_many(&client, 500, 4, GIVE_UP))
        })
        .collect();
    for client in clients {
        let tally = client.join().unwrap();
        assert_eq!((tally.answered, tally.lost), (500, 0));
    }
    assert_eq!(servers.iter().map(FakeDns::queries).sum::<u64>(), 8_000);
    let last = balancer.stop();
    let pool = &last.pools[0];
    assert_eq!((pool.answered, pool.workers.len()), (8_000, 4));
    assert!(pool.workers.iter().filter(|&&received| received > 0).count() > 1, "{:?}", pool.workers);
    assert!(pool.servers.iter().all(|server| server.answered > 0), "{pool:?}");
    assert_adds_up(pool);
}

#[test]
fn the_same_over_io_uring() {
    let (site, _servers, balancer, client) = started(2, json!({"io": "io_uring"}));
    if !site.log("balancer/balancer.log").contains("io=\"io_uring\"") {
        eprintln!("skipped: this machine has no io_uring");
        return;
    }
    let tally = ask_many(&client, 5_000, 16, GIVE_UP);
    assert_eq!((tally.answered, tally.lost), (5_000, 0));
    assert_adds_up(&balancer.stop().pools[0]);
}

#[test]
fn who_may_not_send_is_refused_by_reason() {
    let site = Site::new(json!({}));
    let servers = fakes(&site, 1);
    let front = |n: u16| v4(site.port(10 + n));
    let one = |n: u16, more: Value| {
        let mut pool = pool(&site, &servers, more)[0].take();
        pool["listen"] = json!(front(n).to_string());
        pool
    };
    let balancer = site.pools(json!([
        one(0, json!({"deny": ["127.0.0.3"]})),
        one(1, json!({"allow": ["127.0.0.2", "127.0.0.3"], "deny": ["127.0.0.3"]})),
        one(2, json!({"rate_per_source": 0.001})),
    ]));
    let from = |ip: [u8; 4], n: u16| Asker::from((ip, 0).into(), front(n));
    let refused = |n: usize, reason: &str, count: u64| {
        let look = |status: &Status| status.pools[n].refused.get(reason) == Some(&count);
        balancer.wait_until(&format!("{count} {reason} at pool {n}"), look);
    };
    from([127, 0, 0, 3], 0).send(&query(1));
    refused(0, "denied", 1);
    assert_eq!(ask(&from([127, 0, 0, 1], 0), 2), 1);
    from([127, 0, 0, 3], 1).send(&query(3));
    from([127, 0, 0, 1], 1).send(&query(4));
    refused(1, "denied", 2);
    assert_eq!(ask(&from([127, 0, 0, 2], 1), 5), 1);
    let eager = from([127, 0, 0, 1], 2);
    assert_eq!(ask(&eager, 6), 1);
    (7..17).for_each(|id| eager.send(&query(id)));
    refused(2, "rate", 10);
    assert_eq!(ask(&from([127, 0, 0, 2], 2), 17), 1, "another source");
    // The same holds for queries by TCP, and for connections.
    let mut stream = connect(front(2));
    write_message(&mut stream, &query(18)).unwrap();
    assert_eq!(read_message(&mut stream).map(|message| rcode(&message)), Some(5), "REFUSED");
    refused(2, "rate", 11);
    let mut denied = connect_from([127, 0, 0, 3], front(0));
    assert_eq!(denied.read(&mut [0]).unwrap_or(0), 0, "closed");
    balancer.wait_until("it is counted", |status| status.pools[0].datagram.unwrap().tcp_refused == 1);
    let last = balancer.stop();
    last.pools.iter().for_each(assert_adds_up);
    assert_eq!(last.pools.iter().map(|pool| pool.answered).collect::<Vec<_>>(), [1, 1, 2]);
}
