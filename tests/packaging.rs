//! What is shipped beside the programs: manual pages, completions, units, package, image, dashboard and
//! alarms. They are checked by the tools that will read them, where those are there.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Site, wait_for};
use lbd::config::Config;
use lbd::io::socket::SocketOptions;
use serde_json::json;

const LBD: &str = env!("CARGO_BIN_EXE_lbd");
const SHIPPED_CONFIG: &str = "tools/packaging/etc/config.json";
/// systemd's measure, times ten: what the units expose at most.
const EXPOSURE_MAX: &str = "20";

/// A file or folder of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The output of a command; `None`, with a message, if there is no such program.
fn output(program: &str, args: &[&str], input: &str) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("there is no {program} here: what it would check is not checked");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()); // not every program reads it
    Some(child.wait_with_output().unwrap())
}

fn lbd(args: &[&str]) -> String {
    let output = output(LBD, args, "").unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that it said, if a command failed or complained.
fn complaint(output: &Output) -> Option<String> {
    let said =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    (!output.status.success() || !output.stderr.is_empty()).then_some(said)
}

fn subcommands() -> Vec<String> {
    let help = lbd(&["--help"]);
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = commands.lines().filter_map(|line| line.split_whitespace().next());
    let names: Vec<String> = names.filter(|name| *name != "help").map(str::to_owned).collect();
    assert!(names.len() >= 9, "{help}");
    names
}

#[test]
fn completions_are_read_by_each_shell_and_know_every_subcommand() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = lbd(&["completions", shell]);
        for name in subcommands() {
            assert!(script.contains(&name), "{shell} does not know {name}");
        }
        if matches!(shell, "bash" | "zsh" | "fish")
            && let Some(read) = output(shell, &["-n"], &script)
        {
            assert_eq!(complaint(&read), None, "{shell}");
        }
    }
}

#[test]
fn every_command_has_a_manual_page_that_can_be_shown() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("made/man");
    lbd(&["man", "--dir", pages.to_str().unwrap()]);
    let mut wanted: BTreeSet<String> = subcommands().iter().map(|name| format!("lbd-{name}.1")).collect();
    wanted.extend(["lbd.1", "loadgen.1"].map(str::to_owned));
    let files =
        std::fs::read_dir(&pages).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.collect::<BTreeSet<_>>(), wanted);
    assert_eq!(lbd(&["man"]), read(pages.join("lbd.1")));
    for name in &wanted {
        let page = pages.join(name);
        let page = page.to_str().unwrap();
        if let Some(shown) = output("man", &["-l", page], "") {
            assert_eq!(complaint(&shown), None, "{name}");
            let text = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(text.contains("SYNOPSIS") && text.contains("--help"), "{name}: {text}");
        }
        if let Some(checked) = output("mandoc", &["-Tlint", "-Werror", page], "") {
            assert_eq!(complaint(&checked), None, "{name}");
        }
    }
    let options = read(pages.join("lbd-balancer.1"));
    assert!(!options.contains("stdin"), "what is hidden in the help is hidden here too");
}

#[test]
fn a_folder_for_pages_that_cannot_be_made_is_named() {
    let refused = output(LBD, &["man", "--dir", "/proc/nowhere"], "").unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(complaint(&refused).unwrap().contains("cannot create /proc/nowhere"), "{refused:?}");
}

#[test]
fn the_shipped_configuration_is_valid_and_at_home_where_the_units_say() {
    let config = Config::load(&project(SHIPPED_CONFIG)).unwrap();
    assert!(config.native().unwrap().balancer_for_clients().ip().is_loopback());
    for unit in units() {
        let text = read(&unit);
        assert!(text.contains(&format!(
            "LogsDirectory={}\n",
            config.logs.dir.strip_prefix("/var/log").unwrap().display()
        )));
        let runtime =
            format!("RuntimeDirectory={}\n", config.state_dir.strip_prefix("/run").unwrap().display());
        assert_eq!(text.contains(&runtime), !unit.ends_with("lbd-server@.service"), "{}", unit.display());
    }
}

#[test]
fn the_buffers_that_lbd_asks_for_are_allowed_by_the_sysctl_file() {
    let text = read(project("tools/packaging/sysctl.d/60-lbd.conf"));
    let options = SocketOptions::default();
    for (key, asked) in [("rmem_max", options.receive_buffer), ("wmem_max", options.send_buffer)] {
        assert!(text.contains(&format!("net.core.{key} = {asked}\n")), "{key}: {asked}");
    }
}

fn units() -> Vec<PathBuf> {
    let files = std::fs::read_dir(project("tools/packaging/systemd")).unwrap();
    let units: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(units.len(), 3);
    units
}

#[test]
fn systemd_accepts_the_units_and_finds_them_hard() {
    let dir = tempfile::tempdir().unwrap();
    for unit in units() {
        let name = unit.file_name().unwrap().to_str().unwrap();
        let copy = dir.path().join(name);
        // The program is not installed where it will be.
        std::fs::write(&copy, read(&unit).replace("/usr/bin/lbd", LBD)).unwrap();
        let copy = copy.to_str().unwrap();
        let Some(verified) = output("systemd-analyze", &["verify", "--man=no", copy], "") else { return };
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        let stem = name.split(['@', '.']).next().unwrap();
        assert!(verified.status.success() && !said.contains(stem), "{name}: {said}");
        let measure = ["security", "--offline=true", &format!("--threshold={EXPOSURE_MAX}"), copy];
        let measured = output("systemd-analyze", &measure, "").unwrap();
        let said = String::from_utf8_lossy(&measured.stdout).into_owned();
        assert!(measured.status.success() && said.contains("Overall exposure level"), "{name}: {said}");
    }
}

/// The system calls of a group such as `@aio`, and of the groups in it.
fn group(name: &str) -> Option<BTreeSet<String>> {
    let listed = output("systemd-analyze", &["syscall-filter", name], "")?;
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut calls = BTreeSet::new();
    for line in text.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        match line.starts_with('@') {
            true => calls.extend(group(line)?),
            false => drop(calls.insert(line.to_owned())),
        }
    }
    Some(calls)
}

/// The system calls that a unit allows.
fn allowed(unit: &str) -> Option<BTreeSet<String>> {
    let mut allowed = BTreeSet::new();
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (words, deny) = line.strip_prefix('~').map_or((line, false), |rest| (rest, true));
        for word in words.split_whitespace() {
            let calls = if word.starts_with('@') { group(word)? } else { [word.to_owned()].into() };
            match deny {
                true => allowed.retain(|call| !calls.contains(call)),
                false => allowed.extend(calls),
            }
        }
    }
    Some(allowed)
}

/// The system calls in what strace(1) wrote. It writes "???" for that of a thread that ended meanwhile.
fn traced(text: &str) -> BTreeSet<String> {
    let calls = text.lines().filter_map(|line| line.split_whitespace().nth(1)?.split_once('('));
    calls.map(|(name, _)| name.to_owned()).filter(|name| name != "???").collect()
}

#[test]
fn the_units_allow_the_system_calls_that_lbd_makes() {
    if output("strace", &["-V"], "").is_none() {
        return;
    }
    let site = Site::new(json!({"load_balancer": {"pin": true, "io": "io_uring"}, "server": {"count": 2}}));
    for io in ["io_uring", "mio"] {
        let config = read(site.path().join("config.json")).replace("io_uring", io);
        site.write("config.json", &config);
        let config = site.path().join("config.json");
        let start = |name: &str, words: &[&str]| {
            let trace = site.path().join(format!("{name}.trace"));
            let mut all = vec!["-f", "-qq", "-o", trace.to_str().unwrap(), LBD];
            all.extend(words);
            all.extend(["--config", config.to_str().unwrap()]);
            (common::Running::start("strace".as_ref(), &all, site.path()), trace)
        };
        let (balancer, of_balancer) = start("balancer", &["balancer", "--status-every", "100ms"]);
        let (controller, of_controller) = start("controller", &["controller"]);
        balancer.wait_until_up(2);
        assert_eq!(site.start(&["client", "--requests", "20", "--json"]).summary().0, 0);
        for (running, trace, unit) in [
            (controller, of_controller, "lbd-controller.service"), // and the servers in it
            (balancer, of_balancer, "lbd-balancer.service"),
        ] {
            // strace passes no signal on; the first line of the trace has the program's own id.
            let pid = || read(&trace).split_whitespace().next().and_then(|word| word.parse::<i32>().ok());
            common::send_signal(wait_for("a trace", pid, String::new), libc::SIGTERM);
            assert_eq!(running.finish().code, 0);
            let Some(allowed) = allowed(&read(project("tools/packaging/systemd").join(unit))) else { return };
            let made = traced(&read(&trace));
            assert!(made.contains("sendmmsg") || made.contains("io_uring_enter"), "{made:?}");
            let refused: Vec<_> = made.difference(&allowed).collect();
            assert!(refused.is_empty(), "{unit} over {io} refuses {refused:?}");
        }
    }
}

/// How an image and the units start `lbd`: the words that follow its name.
fn uses_of_lbd(text: &str) -> Vec<Vec<String>> {
    let of_line = |line: &str| {
        let starts = ["/usr/bin/lbd ", "CMD lbd ", "CMD ["];
        let (_, words) = starts.iter().find_map(|start| line.split_once(start))?;
        let words = words.split([']', '>']).next()?.replace(['"', ','], " ");
        Some(words.split_whitespace().map(str::to_owned).collect())
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(of_line).collect()
}

#[test]
fn units_and_image_start_lbd_with_arguments_that_it_has() {
    let mut uses = uses_of_lbd(&read(project("Dockerfile")));
    assert_eq!(uses.len(), 2, "health and command: {uses:?}");
    for unit in units() {
        uses.extend(uses_of_lbd(&read(unit)));
    }
    assert_eq!(uses.len(), 2 + 5, "{uses:?}");
    for words in uses {
        let help = lbd(&[&words[0], "--help"]);
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(
                help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
                "{words:?}: {help}"
            );
        }
    }
}

#[test]
fn what_the_image_copies_is_there_and_is_not_left_out() {
    let ignore = read(project(".dockerignore"));
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*"), "everything else is left out");
    for path in &kept {
        assert!(project(path).exists(), "{path}");
    }
    let dockerfile = read(project("Dockerfile"));
    let copies = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    let of_context: Vec<&str> = copies.filter(|copy| !copy.starts_with("--from")).collect();
    assert_eq!(of_context.len(), 2);
    for copy in of_context {
        let from = copy.split_whitespace().next().unwrap();
        assert!(project(from).exists(), "{from}");
        assert!(from == "." || kept.iter().any(|path| from.starts_with(path)), "{from} is left out");
    }
    assert!(dockerfile.contains("EXPOSE 54001/udp 55080/tcp\n"));
    let config = Config::load(&project(SHIPPED_CONFIG)).unwrap();
    assert_eq!(config.native().unwrap().balancer_for_clients().port(), 54001);
    assert_eq!(config.admin.listen.unwrap().port(), 55080);
    assert!(dockerfile.contains(&format!("-m 0700 {}", config.state_dir.display())));
    assert!(dockerfile.contains(&config.logs.dir.display().to_string()));
    // What cargo needs besides the sources, by Cargo.toml.
    for line in read(project("Cargo.toml")).lines() {
        if let Some(path) = line.strip_prefix("path = \"").and_then(|rest| rest.strip_suffix('"')) {
            assert!(kept.iter().any(|kept| path.starts_with(kept)), "{path} is left out");
        }
    }
}

#[test]
fn what_the_package_takes_is_there() {
    let text = read(project("Cargo.toml"));
    let assets = text.split("assets = [\n").nth(1).unwrap().split("\n]\n").next().unwrap();
    let build = read(project("tools/packaging/build-deb"));
    let mut count = 0;
    for line in assets.lines() {
        let from = line.trim().trim_start_matches("[\"").split('"').next().unwrap();
        count += 1;
        if let Some(made) = from.strip_prefix("target/packaging/") {
            assert!(build.contains(&format!("$made/{}", made.split('/').next().unwrap())), "{made}");
        } else if let Some(program) = from.strip_prefix("target/release/") {
            assert!(["lbd", "loadgen"].contains(&program), "{program}");
        } else {
            let (folder, pattern) = from.rsplit_once('/').unwrap_or((".", from));
            let fits = |name: &str| match pattern.split_once('*') {
                Some((before, after)) => name.starts_with(before) && name.ends_with(after),
                None => name == pattern,
            };
            let mut files =
                std::fs::read_dir(project(folder)).unwrap_or_else(|error| panic!("{from}: {error}"));
            assert!(files.any(|file| fits(file.unwrap().file_name().to_str().unwrap())), "{from}");
        }
    }
    assert!(count >= 15, "{assets}");
    for script in ["postinst", "prerm", "postrm"] {
        let path = project("tools/packaging/debian").join(script);
        let read = output("sh", &["-n", path.to_str().unwrap()], "").unwrap();
        assert_eq!(complaint(&read), None, "{script}");
    }
}

/// The names of figures in a text: what begins with `lbd_`.
fn figures(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("lbd_")).map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alarms_use_figures_that_a_balancer_shows() {
    let site = Site::new(json!({
        "pools": [
            {"listen": "127.0.0.1:1", "protocol": "dns", "servers": ["127.0.0.1:2"], "tcp_connections": 0},
        ],
        "load_balancer": {"workers": 1, "policy": "shortest_delay"},
    }));
    let text = read(site.path().join("config.json"));
    let text = text.replace("127.0.0.1:1\"", &format!("127.0.0.1:{}\"", site.port(0)));
    site.write("config.json", &text.replace("127.0.0.1:2\"", &format!("127.0.0.1:{}\"", site.port(1))));
    let balancer = site.balancer();
    let _server = site.start(&["server", "--id", "0"]);
    balancer.wait_until_up(1);
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"no frame", ("127.0.0.1", site.client_side())).unwrap();
    balancer.wait_until("a drop", |status| status.native().is_some_and(|pool| !pool.dropped.is_empty()));
    assert_eq!(site.start(&["client", "--requests", "1", "--json"]).summary().0, 0);
    let scrape = || {
        let mut stream = TcpStream::connect(("127.0.0.1", site.admin_port())).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // The admin interface shows what was seen a moment ago.
        let is_shown =
            |figure: &str| answer.lines().any(|line| line.starts_with(figure) && !line.ends_with(" 0"));
        let is_complete = is_shown("lbd_dropped_by_reason_total{") && is_shown("lbd_server_answered_total{");
        is_complete.then_some(answer)
    };
    let shown = figures(&wait_for("the drop and the answer in the figures", scrape, String::new));
    for path in ["tools/prometheus/lbd.rules.yml", "tools/grafana/lbd.json"] {
        let used = figures(&read(project(path)));
        assert!(used.len() > 15, "{path}: {used:?}");
        let unknown: Vec<_> = used.difference(&shown).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?} are not among {shown:?}");
    }
}

#[test]
fn alarms_are_raised_when_they_should_and_each_is_explained() {
    let rules = read(project("tools/prometheus/lbd.rules.yml"));
    let alarms: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alarms.len() >= 15);
    let handbook = read(project("docs/OPERATIONS.md"));
    let explained = handbook.lines().filter_map(|line| line.strip_prefix("| `Lbd")?.split_once('`'));
    let explained: BTreeSet<String> = explained.map(|(name, _)| format!("Lbd{name}")).collect();
    assert_eq!(alarms.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>(), explained);

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lbd.rules.yml"), &rules).unwrap();
    let cases = dir.path().join("cases.yml");
    std::fs::copy(project("tests/packaging/lbd.rules.test.yml"), &cases).unwrap();
    for (what, path) in [("check", dir.path().join("lbd.rules.yml")), ("test", cases)] {
        let Some(said) = output("promtool", &[what, "rules", path.to_str().unwrap()], "") else { return };
        assert!(said.status.success(), "{what}: {said:?}");
    }
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read(project("tools/grafana/lbd.json"))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert!(panels.len() > 20 && ids.len() == panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && targets.iter().all(|target| target["expr"].is_string()), "{panel}");
        // Each query is one that Prometheus can read, with the dashboard's variables filled in.
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "1m").replace("$__range", "1h");
            let rule = format!("groups: [{{name: a, rules: [{{record: a, expr: {}}}]}}]", json!(query));
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("rule.yml");
            std::fs::write(&path, rule).unwrap();
            let Some(said) = output("promtool", &["check", "rules", path.to_str().unwrap()], "") else {
                return;
            };
            assert!(said.status.success(), "{query}: {said:?}");
        }
    }
}
