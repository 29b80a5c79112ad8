//! The controller and its servers as processes: killed, restarted, two at a time; servers that know nothing
//! of lbd.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::fakes::{Asker, v4};
use common::{Running, Site, send_signal, wait_for};
use lbd::admin::status::PoolStatus;
use serde_json::{Value, json};

const LOG: &str = "controller/controller.log";

/// The servers' processes by id, as the newest lines of the controller's log after `from` bytes say.
fn started(site: &Site, from: usize) -> BTreeMap<u32, i32> {
    let log = site.log(LOG);
    let number = |line: &str, name: &str| line.split_once(name)?.1.split(' ').next()?.parse::<u32>().ok();
    let lines = log[from..].lines().filter(|line| line.contains(" started "));
    lines.filter_map(|line| Some((number(line, "server=")?, number(line, "pid=")? as i32))).collect()
}

/// Waits until `count` servers were started after `from` bytes of the log.
#[track_caller]
fn wait_for_started(site: &Site, from: usize, count: usize) -> BTreeMap<u32, i32> {
    let look = || Some(started(site, from)).filter(|started| started.len() == count);
    wait_for("servers are started", look, || site.log(LOG))
}

/// Waits for a line with this part after `from` bytes of the log.
#[track_caller]
fn wait_for_line(site: &Site, from: usize, part: &str) {
    let look = || site.log(LOG)[from..].contains(part).then_some(());
    wait_for(part, look, || site.log(LOG));
}

/// Asks a controller to end; nothing of the site but `others` is left then.
#[track_caller]
fn end(site: &Site, mut controller: Running, others: &[&Running]) {
    controller.signal(libc::SIGTERM);
    let finished = controller.finish();
    assert_eq!(finished.code, 0, "{finished:?}");
    let mut left = site.processes();
    left.retain(|pid| others.iter().all(|other| other.pid() != *pid));
    assert_eq!(left, Vec::<i32>::new(), "servers that still run\n{}", site.log(LOG));
}

/// A program in the site's folder, so that the site ends what is left of it.
fn sleeper(site: &Site) -> String {
    let sleep = ["/usr/bin/sleep", "/bin/sleep"].map(PathBuf::from);
    let program = site.path().join("sleeper");
    let sleep = sleep.iter().find(|path| path.exists()).expect("sleep(1)");
    std::os::unix::fs::symlink(sleep, &program).unwrap();
    program.display().to_string()
}

/// What a controller has left.
fn state(site: &Site) -> Value {
    let path = site.path().join(format!("state/controller-{}.json", site.controller_port()));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn servers_outlive_a_killed_controller_and_the_next_one_adopts_them() {
    let site = Site::new(json!({
        "server": {"count": 3, "shrink_after": "10min"},
        "client": {"retries": 0, "timeout": "20s"},
    }));
    let balancer = site.balancer();
    let mut controller = site.start(&["controller"]);
    let servers = wait_for_started(&site, 0, 3);
    balancer.wait_until_up(3);
    let client = site.client(&["--rate", "400", "--requests", "1200"]);
    balancer.wait_until("requests are answered", |status| status.pools[0].answered > 100);
    controller.kill_now();
    let before = balancer.status().pools[0].answered;
    balancer.wait_until("they serve without it", |status| status.pools[0].answered > before + 50);

    let seen = site.log(LOG).len();
    let controller = site.start(&["controller"]);
    for (id, pid) in &servers {
        controller.wait_for_word(&format!("server {id} runs already (process {pid}): adopted"));
    }
    let (code, summary) = client.summary();
    assert_eq!((code, summary.answered, summary.lost), (0, 1200, 0), "{summary:?}");
    assert_eq!(started(&site, seen), BTreeMap::new(), "nothing is started twice");
    assert_eq!(balancer.status().pools[0].servers.len(), 3);
    assert_eq!(site.log("balancer/balancer.log").matches("joined").count(), 3, "no server had to join again");

    // An adopted server is looked after as if it were an own one.
    let (seen, victim) = (site.log(LOG).len(), servers[&1]);
    send_signal(victim, libc::SIGKILL);
    let again = wait_for_started(&site, seen, 1);
    assert!(again.contains_key(&1) && again[&1] != victim, "{again:?}");
    balancer.wait_until_up(3);
    end(&site, controller, &[&balancer]);
    assert_eq!(state(&site)["servers"], json!([]));
}

#[test]
fn a_server_that_ended_while_there_was_no_controller_is_started_again_under_its_id() {
    let site = Site::new(json!({"server": {"count": 2}}));
    let mut controller = site.start(&["controller"]);
    let servers = wait_for_started(&site, 0, 2);
    controller.kill_now();
    send_signal(servers[&1], libc::SIGKILL);
    wait_for("its end", || (!site.processes().contains(&servers[&1])).then_some(()), String::new);
    let seen = site.log(LOG).len();
    let controller = site.start(&["controller"]);
    let again = wait_for_started(&site, seen, 1);
    assert_eq!(again.keys().copied().collect::<Vec<_>>(), [1]);
    for part in [
        "server ended unexpectedly pool=\"native\" server=1 exit=\"while there was no controller\"",
        &format!("server started pool=\"native\" server=1 port={}", site.server_port(1)),
        &format!("server 0 runs already (process {}): adopted", servers[&0]),
    ] {
        let log = site.log(LOG);
        assert!(log[seen..].contains(part), "{part}: {}", &log[seen..]);
    }
    end(&site, controller, &[]);
}

#[test]
fn what_a_killed_controller_had_just_started_is_found_and_a_reused_number_is_left_alone() {
    let site = Site::new(json!({"server": {"count": 3}}));
    let program = sleeper(&site);
    let spawn = |instance: &str| -> Child {
        Command::new(&program).arg("1000").env("LBD_INSTANCE", instance).spawn().unwrap()
    };
    // One whose process was not written down yet, and a stranger that has the number of a server that is
    // gone.
    let (mut known, mut stranger) = (spawn("aa01"), spawn("ff99"));
    let mut controller = site.start(&["controller"]);
    wait_for_started(&site, 0, 3);
    controller.kill_now();
    let mut state = state(&site);
    let servers = state["servers"].as_array_mut().unwrap();
    let pid = |server: &Value| server["process"]["pid"].as_i64().unwrap() as i32;
    for server in &servers[..2] {
        send_signal(pid(server), libc::SIGKILL);
    }
    let (gone, kept) = (pid(&servers[1]), pid(&servers[2]));
    servers[0]["instance"] = json!("aa01");
    servers[0]["process"] = Value::Null;
    servers[1]["process"]["pid"] = json!(stranger.id());
    let path = site.path().join(format!("state/controller-{}.json", site.controller_port()));
    std::fs::write(path, state.to_string()).unwrap();

    wait_for("its end", || (!site.processes().contains(&gone)).then_some(()), String::new);
    let seen = site.log(LOG).len();
    let controller = site.start(&["controller"]);
    controller.wait_for_word(&format!("server 0 runs already (process {}): adopted", known.id()));
    controller.wait_for_word(&format!("server 2 runs already (process {kept}): adopted"));
    assert_eq!(wait_for_started(&site, seen, 1).keys().copied().collect::<Vec<_>>(), [1]);
    let mut controller = controller;
    controller.signal(libc::SIGTERM);
    let ended = || known.try_wait().unwrap();
    let ended = wait_for("it is stopped with the others", ended, || site.log(LOG));
    assert!(!ended.success());
    assert_eq!(controller.finish().code, 0);
    assert_eq!(stranger.try_wait().unwrap(), None, "the stranger was left alone");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_second_controller_is_refused_and_told_who_is_there() {
    let site = Site::new(json!({"server": {"count": 1}}));
    let first = site.start(&["controller"]);
    let servers = wait_for_started(&site, 0, 1);
    for command in ["controller", "up"] {
        let second = site.start(&[command]).finish();
        assert_eq!(second.code, 2, "{second:?}");
        let says = format!("is locked by process {}; stop it first", first.pid());
        assert!(second.stderr.contains(&says), "{second:?}");
        assert!(second.stderr.contains("or set another controller.port"), "{second:?}");
    }
    // The same port, but not the same folder.
    let config = std::fs::read_to_string(site.path().join("config.json")).unwrap();
    let elsewhere = site.write("elsewhere.json", &config.replace("\"state\"", "\"elsewhere\""));
    let second = site.start_bare(&["controller", "--config", elsewhere.to_str().unwrap()]).finish();
    let says = format!("cannot bind 127.0.0.1:{}: Address already in use", site.controller_port());
    assert!(second.code == 2 && second.stderr.contains(&says), "{second:?}");
    assert!(second.stderr.contains("set another controller.port"), "{second:?}");
    assert!(site.processes().contains(&servers[&0]));
    end(&site, first, &[]);
}

#[test]
fn a_folder_that_others_can_open_is_refused() {
    let site = Site::new(json!({}));
    let dir = site.path().join("state");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let finished = site.start(&["controller"]).finish();
    assert_eq!(finished.code, 2, "{finished:?}");
    assert!(
        finished.stderr.contains("other users may enter the directory state (mode 755); run chmod 700 state"),
        "{finished:?}"
    );
}

#[test]
fn a_command_gets_its_id_port_and_configuration() {
    let site = Site::new(json!({"server": {"count": 2, "start_id": 7}}));
    let folder = site.path().display().to_string();
    let program = sleeper(&site);
    let script = format!("echo {{id}} {{port}} {{config}} > {folder}/got-{{id}}; exec {program} 1000");
    let config = site.path().join("config.json");
    let mut changed: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    changed["server"]["command"] = json!(["sh", "-c", script]);
    site.write("config.json", &changed.to_string());
    let controller = site.start(&["controller"]);
    for (id, port) in [(7, site.server_port(0)), (8, site.server_port(1))] {
        let got = || std::fs::read_to_string(site.path().join(format!("got-{id}"))).ok();
        let got = wait_for("its words", || got().filter(|text| text.ends_with('\n')), || site.log(LOG));
        assert_eq!(got, format!("{id} {port} {}\n", config.display()));
    }
    end(&site, controller, &[]);
}

#[test]
fn a_command_that_cannot_start_is_tried_again_with_back_off() {
    let command = json!(["/nowhere/serve", "{port}"]);
    let site = Site::new(json!({"server": {"count": 1, "command": command}}));
    let controller = site.start(&["controller"]);
    for pause in ["100ms", "200ms", "400ms", "800ms"] {
        controller.wait_for_word(&format!("server 0 starts again in {pause}"));
    }
    let told = controller.stderr();
    let why = "cannot start server 0 with /nowhere/serve: No such file or directory";
    assert_eq!(told.matches(why).count(), 1, "{told}");
    end(&site, controller, &[]);
}

#[test]
fn a_killed_up_leaves_servers_for_the_next_one_and_nothing_else() {
    let site = Site::new(json!({"server": {"count": 2}, "client": {"count": 2}}));
    let mut up = site.start(&["up", "--rate", "100"]);
    wait_for_line(&site, 0, " up clients=");
    assert_eq!(site.processes().len(), 1 + 1 + 2 + 2, "itself, a balancer, servers, clients");
    let servers = started(&site, 0);
    up.kill_now();
    let mut pids: Vec<i32> = servers.values().copied().collect();
    pids.sort_unstable();
    let left = || {
        let mut left = site.processes();
        left.sort_unstable();
        (left == pids).then_some(())
    };
    wait_for("balancer and clients end", left, || format!("{:?}", site.processes()));

    let seen = site.log(LOG).len();
    let finished = site.start(&["up", "--rate", "100", "--duration", "1s"]).finish();
    assert_eq!(finished.code, 0, "{finished:?}");
    let log = site.log(LOG);
    assert_eq!(log[seen..].matches(": adopted").count(), 2, "{log}");
    assert_eq!(started(&site, seen), BTreeMap::new());
    assert_eq!(site.processes(), Vec::<i32>::new());
}

/// An unmodified server in the site's directory: it takes 20 ms for each datagram and echoes it. `None`, with
/// a message, where there is no python3.
fn unmodified_server(site: &Site) -> Option<String> {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no python3 on this machine");
        return None;
    }
    let text = "import socket, sys, time\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.bind(('127.0.0.1', int(sys.argv[1])))\n\
         while True:\n\
         \x20   data, peer = s.recvfrom(65536)\n\
         \x20   time.sleep(0.02)\n\
         \x20   s.sendto(data, peer)\n";
    Some(format!("python3 {} {{port}}", site.write("serve.py", text).display()))
}

/// The site's pool of servers that lbd runs, one to four of them; gives its configuration.
fn pool_with_run(site: &Site, command: &str, protocol_and_more: Value) -> Value {
    let mut pool = json!({
        "name": "echo", "listen": format!("127.0.0.1:{}", site.port(0)),
        "protocol": "datagram", "timeout": "5s",
        "run": {
            "command": command, "port_range_start": site.port(1), "port_range_end": site.port(20), "max": 4,
            "threshold": 3, "grow_after": "1s", "shrink_after": "1s",
            "grow_cool_down": "300ms", "shrink_cool_down": "300ms",
        },
    });
    for (key, value) in protocol_and_more.as_object().unwrap() {
        pool["run"][key] = value.clone();
    }
    json!([pool])
}

/// Clients that send one request after the other until `is_over`, and check every answer.
struct Askers {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Askers {
    /// `count` clients, each of which waits for `rest` between an answer and the next request.
    fn start(site: &Site, count: u64, rest: Duration) -> Askers {
        let is_over = Arc::new(AtomicBool::new(false));
        let front = v4(site.port(0));
        let threads = (0..count).map(|client| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                let asker = Asker::to(front);
                let mut asked = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let question = format!("{client} asks {asked}").into_bytes();
                    assert_eq!(asker.ask(&question), question);
                    asked += 1;
                    std::thread::sleep(rest);
                }
                asked
            })
        });
        let threads = threads.collect();
        Askers { is_over, threads }
    }

    /// Ends them; gives the answers that they had.
    #[track_caller]
    fn end(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("every question was answered")).sum()
    }
}

fn up(pool: &PoolStatus) -> usize {
    pool.servers.iter().filter(|server| server.state == "up").count()
}

/// The controller of the site's pools.
fn pools_controller(site: &Site) -> Running {
    site.start_bare(&["controller", "--config", site.path().join("pools.json").to_str().unwrap()])
}

#[test]
fn unmodified_servers_are_added_under_load_and_removed_after_it_and_nothing_is_lost() {
    let site = Site::new(json!({}));
    let Some(command) = unmodified_server(&site) else { return };
    let pools = pool_with_run(&site, &command, json!({}));
    let balancer = site.start_pools(&pools, &["--status-every", "50ms"]);
    let controller = pools_controller(&site);
    balancer.pool_when("one server", |pool| up(pool) == 1);
    let askers = Askers::start(&site, 10, Duration::ZERO);
    balancer.pool_when("four servers", |pool| up(pool) == 4);
    assert_eq!(started(&site, 0).keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    // A single client asks less than what one server could not carry.
    let few = Askers::start(&site, 1, Duration::from_millis(50));
    let many = askers.end();
    balancer.pool_when("one server is left", |pool| pool.servers.len() == 1 && up(pool) == 1);
    wait_for_line(&site, 0, "pool=\"echo\" change=\"server 1 has stopped\"");
    let answered = many + few.end();
    // The newest line of the status may be older than the last answer.
    let is_all = |pool: &PoolStatus| pool.answered >= answered && pool.datagram.unwrap().in_flight == 0;
    let pool = balancer.pool_when("everything is answered", is_all);
    assert!(pool.datagram.unwrap().timed_out == 0 && pool.refused.is_empty(), "{pool:?}");
    let log = site.log(LOG);
    assert!(log.contains("scale up: 1 -> ") && log.contains("at 1 server: grow to 2"), "{log}");
    assert!(log.contains("scale down: 2 -> 1 servers, stopping server 1, load "), "{log}");
    assert!(!log.contains("ended unexpectedly") && !log.contains("server did not stop"), "{log}");
    assert!(controller.stderr().contains("controller: servers of pool echo"));
    end(&site, controller, &[&balancer]);
}

#[test]
fn unmodified_servers_outlive_controller_and_balancer_and_both_find_them_again() {
    let site = Site::new(json!({}));
    let Some(command) = unmodified_server(&site) else { return };
    let pools = pool_with_run(&site, &command, json!({"count": 2, "shrink_after": "10min"}));
    let mut balancer = site.start_pools(&pools, &["--status-every", "50ms"]);
    let mut controller = pools_controller(&site);
    balancer.pool_when("two servers", |pool| up(pool) == 2);
    let servers = wait_for_started(&site, 0, 2);
    let askers = Askers::start(&site, 2, Duration::ZERO);
    controller.kill_now();
    let seen = site.log(LOG).len();
    let controller = pools_controller(&site);
    for (id, pid) in &servers {
        controller.wait_for_word(&format!("pool echo: server {id} runs already (process {pid}): adopted"));
    }
    assert!(askers.end() > 0);

    // A server that ends gets no more requests at once, and restarts with its id.
    send_signal(servers[&1], libc::SIGKILL);
    let again = wait_for_started(&site, seen, 1);
    assert!(again.contains_key(&1), "{again:?}");
    balancer.pool_when("two servers", |pool| up(pool) == 2);

    balancer.kill_now();
    wait_for_line(&site, seen, "balancer unreachable addr=");
    let balancer = site.start_pools(&pools, &["--status-every", "50ms"]);
    balancer.pool_when("the same two servers", |pool| up(pool) == 2);
    wait_for_line(&site, seen, "balancer reachable again");
    assert_eq!(started(&site, seen), again, "nothing is started twice");
    let two = Askers::start(&site, 2, Duration::ZERO);
    balancer.pool_when("requests are answered", |pool| pool.answered > 20);
    assert!(two.end() > 20);
    assert_eq!(site.log(LOG)[seen..].matches("balancer unreachable").count(), 1, "said once");
    end(&site, controller, &[&balancer]);
    balancer.pool_when("no server is left", |pool| pool.servers.is_empty());
}

#[test]
fn a_second_controller_of_the_same_pools_is_refused_and_one_without_any_servers_too() {
    let site = Site::new(json!({}));
    let command = format!("{} 1000 {{port}}", sleeper(&site));
    let pools = pool_with_run(&site, &command, json!({"count": 0}));
    let balancer = site.start_pools(&pools, &[]);
    let first = pools_controller(&site);
    first.wait_for_word("servers of pool echo");
    let second = pools_controller(&site).finish();
    let says = format!("is locked by process {}; stop it first", first.pid());
    assert!(second.code == 2 && second.stderr.contains(&says), "{second:?}");
    assert!(second.stderr.contains("or set another admin.listen"), "{second:?}");
    let listed =
        json!({"pools": [{"listen": "127.0.0.1:5300", "protocol": "dns", "servers": ["192.0.2.1"]}]});
    let listed = site.write("listed.json", &listed.to_string());
    let third = site.start_bare(&["controller", "--config", listed.to_str().unwrap()]).finish();
    assert!(
        third.code == 2 && third.stderr.contains("to run lbd controller, or \"run\" to a pool"),
        "{third:?}"
    );
    end(&site, first, &[&balancer]);
}

/// The balancers of a site by their process ids.
fn balancers(site: &Site) -> Vec<i32> {
    let is_balancer = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).nth(1) == Some(b"balancer")
    };
    site.processes().into_iter().filter(is_balancer).collect()
}

/// Waits until one balancer runs, another than this; all requests are answered then.
#[track_caller]
fn wait_for_balancer(site: &Site, other_than: i32) -> i32 {
    let look = || match balancers(site)[..] {
        [pid] if pid != other_than => Some(pid),
        _ => None,
    };
    let pid = wait_for("one balancer, and another", look, || site.log(LOG));
    let (code, summary) = site.ask(&["--requests", "20"]);
    assert_eq!((code, summary.answered), (0, 20));
    pid
}

#[test]
fn a_controller_keeps_the_balancer_that_it_started_or_adopted_or_that_took_over() {
    let site = Site::new(json!({"server": {"count": 2}}));
    let mut controller = site.start(&["controller", "--with-balancer"]);
    controller.wait_for_word("the balancer started, process ");
    let first = wait_for_balancer(&site, 0);
    send_signal(first, libc::SIGKILL);
    let second = wait_for_balancer(&site, first);

    controller.kill_now();
    assert_eq!(balancers(&site), [second], "it outlives its supervisor");
    let controller = site.start(&["controller", "--with-balancer"]);
    controller.wait_for_word("the balancer already runs, process ");
    let successor = site.start(&["balancer", "--takeover", "--quiet"]);
    let third = wait_for_balancer(&site, second);
    assert_eq!(third, successor.pid());
    controller.wait_for_word("took over from the balancer");
    assert_eq!(balancers(&site), [third], "no other was started beside it");
    send_signal(third, libc::SIGKILL);
    assert_eq!(successor.finish().code, -libc::SIGKILL);
    wait_for_balancer(&site, third);
    end(&site, controller, &[]);
}

#[test]
fn a_supervisor_outlives_a_balancer_that_cannot_start_again() {
    let site = Site::new(json!({"server": {"count": 1}}));
    let controller = site.start(&["controller", "--with-balancer"]);
    controller.wait_for_word("the balancer started, process ");
    let first = wait_for_balancer(&site, 0);
    let config = site.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    site.write("config.json", "{,}");
    send_signal(first, libc::SIGKILL);
    let give_up = || controller.stderr();
    let ended = || (controller.stderr().matches("exit code 2").count() > 2).then_some(());
    wait_for("a balancer that ends again and again", ended, give_up);
    site.write("config.json", &text);
    wait_for_balancer(&site, first);
    end(&site, controller, &[]);
}
