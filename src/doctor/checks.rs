//! Checks: compares the facts of a machine with the needs of a configuration. Pure.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::facts::{Facts, Held};
use super::needs::{Fixed, Needs};
use super::{Finding, Severity};

/// Numbers of capabilities (linux/capability.h).
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;

/// Receive buffer in bytes below which an ordinary burst is lost: about 1,400 small datagrams.
const RECEIVE_BUFFER_LEAST: u64 = 1 << 20;
/// Clock sources that programs read without a system call.
const QUICK_CLOCKS: [&str; 6] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "riscv_clocksource", "timebase"];
/// Share of a limit from which it is nearly reached.
const NEARLY_FULL: f64 = 0.8;

/// All findings, in the order in which they are printed.
pub fn examine(facts: &Facts, needs: &Needs) -> Vec<Finding> {
    let checks: [fn(&Facts, &Needs) -> Option<Finding>; 20] = [
        kernel,
        receive_buffers,
        send_buffers,
        segmentation,
        merging,
        io_uring,
        descriptors,
        privileged_ports,
        transparent,
        fixed_ports,
        local_ports,
        packet_info,
        ipv6,
        conntrack,
        udp_memory,
        drops,
        clock,
        processors,
        governor,
        addresses,
    ];
    let judged = checks.iter().filter_map(|check| check(facts, needs));
    judged.chain(directories(facts)).collect()
}

fn ok(check: &'static str, found: impl Into<String>) -> Option<Finding> {
    Some(Finding { check, level: Severity::Ok, found: found.into(), fix: vec![] })
}

fn note(
    check: &'static str,
    found: impl Into<String>,
    fix: impl IntoIterator<Item = String>,
) -> Option<Finding> {
    Some(Finding { check, level: Severity::Note, found: found.into(), fix: fix.into_iter().collect() })
}

fn problem(
    check: &'static str,
    found: impl Into<String>,
    fix: impl IntoIterator<Item = String>,
) -> Option<Finding> {
    Some(Finding { check, level: Severity::Problem, found: found.into(), fix: fix.into_iter().collect() })
}

fn sysctl(name: &str, value: impl std::fmt::Display) -> String {
    format!("sysctl -w {name}={value}")
}

/// A size as text.
fn bytes(n: u64) -> String {
    match n {
        ..1_048_576 => format!("{} KiB", n / 1024),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

fn kernel(facts: &Facts, _: &Needs) -> Option<Finding> {
    let release = facts.kernel.as_deref()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let version = (numbers.next()??, numbers.next()??);
    let lacks = match version {
        (6, 1..) | (7.., _) => return ok("kernel", format!("{release}: supports everything that lbd uses")),
        (5.., _) => "io_uring as lbd uses it (6.1)",
        (4, 18..) => "merged datagrams (UDP_GRO, 5.0) and io_uring (6.1)",
        _ => "segmentation (UDP_SEGMENT, 4.18), merged datagrams (5.0) and io_uring (6.1)",
    };
    note("kernel", format!("{release}: too old for {lacks}; lbd works without them and needs more CPU"), [])
}

fn receive_buffers(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "receive buffers";
    let (granted, wanted) = (facts.receive_buffer?, needs.receive_buffer);
    if granted >= wanted {
        return ok(CHECK, format!("{} granted, as requested", bytes(granted)));
    }
    let found = format!(
        "{} granted of {}: the kernel drops datagrams when about {} small ones are queued",
        bytes(granted),
        bytes(wanted),
        granted / 768
    );
    // The kernel doubles the requested size.
    let fix = [sysctl("net.core.rmem_max", wanted / 2)];
    if granted < RECEIVE_BUFFER_LEAST { problem(CHECK, found, fix) } else { note(CHECK, found, fix) }
}

fn send_buffers(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "send buffers";
    let (granted, wanted) = (facts.send_buffer?, needs.send_buffer);
    if granted >= wanted {
        return ok(CHECK, format!("{} granted, as requested", bytes(granted)));
    }
    let found = format!("{} granted of {}: large bursts may be lost", bytes(granted), bytes(wanted));
    note(CHECK, found, [sysctl("net.core.wmem_max", wanted / 2)])
}

fn segmentation(facts: &Facts, _: &Needs) -> Option<Finding> {
    const CHECK: &str = "UDP GSO";
    match facts.gso.as_ref()? {
        Ok(()) => ok(CHECK, "a segmented send works"),
        Err(why) => note(
            CHECK,
            format!("{why}: each datagram needs its own message, which costs several times the CPU"),
            ["ethtool -K lo tx-udp-segmentation on".to_owned()],
        ),
    }
}

fn merging(facts: &Facts, _: &Needs) -> Option<Finding> {
    const CHECK: &str = "UDP GRO";
    match facts.gro.as_ref()? {
        Ok(()) => ok(CHECK, "a segmented send arrives merged"),
        Err(why) => note(CHECK, format!("{why}: receiving costs more CPU"), []),
    }
}

fn io_uring(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "io_uring";
    let why = match facts.io_uring.as_ref()? {
        Ok(()) => return ok(CHECK, "a ring can be opened"),
        Err(why) => why,
    };
    let fix = match facts.io_uring_disabled {
        Some(1..) => vec![sysctl("kernel.io_uring_disabled", 0)],
        // Containers forbid io_uring with a system call filter.
        _ => vec![],
    };
    let found = format!("{why}; lbd uses mio instead");
    match needs.io_uring {
        true => problem(CHECK, format!("{found}, but the configuration requires io_uring"), fix),
        false => ok(CHECK, format!("{found}, and the configuration does not require io_uring")),
    }
}

fn descriptors(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "descriptors";
    let (allowed, needed) = (facts.files_max?, needs.files);
    if needed <= allowed {
        let allowed = if allowed == u64::MAX { "any number".to_owned() } else { allowed.to_string() };
        return ok(CHECK, format!("about {needed} needed, {allowed} allowed"));
    }
    problem(
        CHECK,
        format!("about {needed} needed, {allowed} allowed: lbd cannot start"),
        [format!("ulimit -Hn {needed}   # in the shell, as root; in a unit: LimitNOFILE={needed}")],
    )
}

fn may(facts: &Facts, capability: u32) -> Option<bool> {
    Some(facts.capabilities? >> capability & 1 == 1)
}

fn privileged_ports(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "privileged ports";
    let from = facts.unprivileged_from.unwrap_or(1024);
    let low: Vec<String> = needs
        .fixed
        .iter()
        .filter(|fixed| (1..from).contains(&fixed.addr.port()))
        .map(|fixed| format!("{} ({})", fixed.addr, fixed.what))
        .collect();
    if low.is_empty() {
        return ok(CHECK, format!("no port below {from} is configured"));
    }
    if may(facts, NET_BIND_SERVICE)? {
        return ok(CHECK, format!("lbd may bind {}", low.join(", ")));
    }
    problem(
        CHECK,
        format!("this user may not bind {}", low.join(", ")),
        ["setcap cap_net_bind_service+ep \"$(command -v lbd)\"   # in a unit: \
             AmbientCapabilities=CAP_NET_BIND_SERVICE"
            .to_owned()],
    )
}

fn transparent(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "transparent";
    if needs.transparent.is_empty() {
        return None;
    }
    let pools = needs.transparent.join(", ");
    if may(facts, NET_ADMIN)? || may(facts, NET_RAW)? {
        return ok(CHECK, format!("pool {pools} may send from the clients' addresses"));
    }
    problem(
        CHECK,
        format!("pool {pools} may not send from the clients' addresses: lbd cannot start"),
        ["setcap cap_net_raw+ep \"$(command -v lbd)\"   # in a unit: AmbientCapabilities=CAP_NET_RAW"
            .to_owned()],
    )
}

/// Ports in the format of the kernel's list: `53,5000-5010`.
fn listed(ports: &[RangeInclusive<u16>]) -> String {
    let one = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (from, to) if from == to => from.to_string(),
        (from, to) => format!("{from}-{to}"),
    };
    ports.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Ports that the kernel may give to another program before lbd binds them.
fn fixed_ports(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "fixed ports";
    let (given, reserved) =
        (facts.local_ports.as_ref()?, facts.reserved_ports.as_deref().unwrap_or_default());
    let single = needs.fixed.iter().map(|fixed| fixed.addr.port()..=fixed.addr.port());
    let many = needs.ranges.iter().filter(|range| !range.is_empty()).map(|range| range.start..=range.end - 1);
    let mut exposed: Vec<RangeInclusive<u16>> = single
        .chain(many)
        .filter(|ports| ports.start() <= given.end() && given.start() <= ports.end())
        .filter(|ports| !reserved.iter().any(|r| r.start() <= ports.start() && ports.end() <= r.end()))
        .collect();
    exposed.sort_by_key(|ports| (*ports.start(), *ports.end()));
    exposed.dedup();
    if exposed.is_empty() {
        return ok(CHECK, "the kernel gives lbd's ports to no other program");
    }
    let all = [reserved, &exposed].concat();
    note(
        CHECK,
        format!(
            "{} are within the ports that the kernel gives to any program ({}-{}): one may be taken before \
             lbd starts",
            listed(&exposed),
            given.start(),
            given.end()
        ),
        [sysctl("net.ipv4.ip_local_reserved_ports", listed(&all))],
    )
}

fn local_ports(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "local ports";
    let given = facts.local_ports.as_ref()?;
    let reserved: u64 = facts
        .reserved_ports
        .iter()
        .flatten()
        .map(|r| {
            let (from, to) = (*r.start().max(given.start()), *r.end().min(given.end()));
            (u64::from(to) + 1).saturating_sub(u64::from(from))
        })
        .sum();
    let room =
        (u64::from(*given.end()) + 1).saturating_sub(u64::from(*given.start())).saturating_sub(reserved);
    let needed = needs.local_ports;
    let found =
        format!("{needed} needed of {room} in the kernel's range ({}-{})", given.start(), given.end());
    match needed as f64 > NEARLY_FULL * room as f64 {
        false => ok(CHECK, found),
        true => problem(
            CHECK,
            format!("{found}: too few for all programs"),
            [sysctl("net.ipv4.ip_local_port_range", "\"10240 65535\"")],
        ),
    }
}

fn packet_info(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "IP_PKTINFO";
    match facts.packet_info.as_ref()? {
        Ok(()) => ok(CHECK, "responses leave from the address that received the request"),
        Err(why) if needs.wildcard => problem(CHECK, format!("{why}: use addresses in listen, not *"), []),
        Err(why) => note(CHECK, format!("{why}; no pool listens on a wildcard address"), []),
    }
}

fn ipv6(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "IPv6";
    match facts.ipv6.as_ref()? {
        Ok(()) => ok(CHECK, "works"),
        Err(why) if needs.ipv6 => problem(
            CHECK,
            format!("{why}, but the configuration has IPv6 addresses"),
            [sysctl("net.ipv6.conf.all.disable_ipv6", 0)],
        ),
        Err(why) => ok(CHECK, format!("{why}; the configuration has no IPv6 address")),
    }
}

fn conntrack(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "conntrack";
    let Some((count, most)) = facts.conntrack else {
        return ok(CHECK, "the kernel does not track connections");
    };
    let found = format!("{count} of {most} entries used");
    if count as f64 > NEARLY_FULL * most as f64 {
        let found = format!("{found}: a full table drops datagrams of new clients");
        return problem(CHECK, found, [sysctl("net.netfilter.nf_conntrack_max", 4 * most)]);
    }
    let beyond = needs.fixed.iter().filter(|fixed| !fixed.is_tcp && !fixed.addr.ip().is_loopback());
    let untracked: Vec<String> = beyond
        .map(|fixed| format!("nft add rule ip raw prerouting udp dport {} notrack", fixed.addr.port()))
        .collect();
    match untracked.is_empty() {
        true => ok(CHECK, found),
        false => note(CHECK, format!("{found}; if rules track UDP, each client uses an entry"), untracked),
    }
}

fn udp_memory(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "UDP memory";
    let ((pressure, most), used) = (facts.udp_pages?, facts.udp_pages_used?);
    let in_words = |pages: u64| bytes(pages.saturating_mul(facts.page_size));
    let found = format!("{} used, limit {} for all sockets together", in_words(used), in_words(most));
    let more = |most: u64| sysctl("net.ipv4.udp_mem", format!("\"{} {} {most}\"", most / 2, most / 4 * 3));
    if used >= pressure {
        return problem(CHECK, format!("{found}: the kernel will soon drop datagrams"), [more(2 * most)]);
    }
    // The limit must hold at least one socket's buffer; otherwise the granted size is not available.
    let wanted = needs.receive_buffer.div_ceil(facts.page_size.max(1));
    if most < wanted {
        return problem(CHECK, format!("{found}: the limit is below one receive buffer"), [more(4 * wanted)]);
    }
    ok(CHECK, found)
}

fn drops(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "drops";
    let (all, now) = (facts.dropped?, facts.dropped_now?);
    if now > 0 {
        return problem(
            CHECK,
            format!(
                "{now} datagrams were dropped within 0.5 s because a receive buffer was full ({all} since \
                 boot): \
                 a program does not keep up"
            ),
            [sysctl("net.core.rmem_max", needs.receive_buffer / 2)],
        );
    }
    ok(CHECK, format!("none at present; {all} since boot because a receive buffer was full"))
}

fn clock(facts: &Facts, _: &Needs) -> Option<Finding> {
    const CHECK: &str = "clock";
    let source = facts.clock_source.as_deref()?;
    if QUICK_CLOCKS.contains(&source) {
        return ok(CHECK, format!("{source}: read without a system call"));
    }
    note(
        CHECK,
        format!("{source}: each read is a slow system call, once per turn"),
        ["echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource".to_owned()],
    )
}

fn processors(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "processors";
    let (count, workers) = (facts.processors?, needs.workers);
    match workers > count {
        false => ok(CHECK, format!("{count}, for {workers} workers of the largest pool")),
        true => {
            note(CHECK, format!("{count}, fewer than the {workers} workers of a pool; lower `workers`"), [])
        }
    }
}

fn governor(facts: &Facts, _: &Needs) -> Option<Finding> {
    const CHECK: &str = "CPU governor";
    let governor = facts.governor.as_deref()?;
    match governor {
        "powersave" | "conservative" | "ondemand" => note(
            CHECK,
            format!("{governor}: the first requests after an idle time are slower"),
            ["cpupower frequency-set -g performance".to_owned()],
        ),
        _ => ok(CHECK, governor),
    }
}

impl Fixed {
    /// Whether a socket at this address prevents the bind.
    pub(super) fn clashes(&self, addr: SocketAddr) -> bool {
        let same_family = self.addr.is_ipv4() == addr.is_ipv4();
        let same_ip =
            self.addr.ip() == addr.ip() || self.addr.ip().is_unspecified() || addr.ip().is_unspecified();
        same_family && same_ip && self.addr.port() == addr.port()
    }
}

fn addresses(facts: &Facts, needs: &Needs) -> Option<Finding> {
    const CHECK: &str = "addresses";
    let holder = |held: &Held| match &held.by {
        Some((pid, name)) => format!("{name} (process {pid})"),
        None => "a process of another user".to_owned(),
    };
    let mut taken = vec![];
    let mut fix = vec![];
    let mut only_lbd = true;
    for fixed in &needs.fixed {
        let by = facts.held.iter().find(|held| held.is_tcp == fixed.is_tcp && fixed.clashes(held.addr));
        let Some(held) = by else { continue };
        let protocol = if fixed.is_tcp { "tcp" } else { "udp" };
        taken.push(format!("{protocol} {} ({}) by {}", fixed.addr, fixed.what, holder(held)));
        only_lbd &= held.by.as_ref().is_some_and(|(_, name)| name == "lbd");
        let option = if fixed.is_tcp { "t" } else { "u" };
        fix.push(format!(
            "ss -ln{option}p 'sport = :{}'   # shows the process; stop it, or choose another port",
            fixed.addr.port()
        ));
    }
    fix.dedup();
    match (taken.is_empty(), only_lbd) {
        (true, _) => ok(CHECK, "all addresses of the configuration are free"),
        (false, true) => note(CHECK, format!("in use: {}; lbd already runs", taken.join(", ")), []),
        (false, false) => problem(CHECK, format!("in use: {}", taken.join(", ")), fix),
    }
}

fn directories(facts: &Facts) -> Vec<Finding> {
    let judged = facts.directories.iter().filter_map(|directory| {
        let shown = directory.path.display();
        match &directory.writable {
            Ok(()) => ok(directory.key, format!("{shown} is writable")),
            Err(why) => problem(
                directory.key,
                format!("{shown} is not writable ({why})"),
                [format!(
                    "install -d -o \"$(id -un)\" -m 700 '{shown}'   # as root; or set {} to another \
                     directory",
                    directory.key
                )],
            ),
        }
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::super::facts::Directory;
    use super::*;
    use crate::config::Config;

    /// A machine without a problem.
    fn good() -> Facts {
        Facts {
            kernel: Some("6.1.0-18-amd64".to_owned()),
            receive_buffer: Some(8 << 20),
            send_buffer: Some(8 << 20),
            gso: Some(Ok(())),
            gro: Some(Ok(())),
            io_uring: Some(Ok(())),
            io_uring_disabled: Some(0),
            files_max: Some(4096),
            capabilities: Some(0),
            unprivileged_from: Some(1024),
            local_ports: Some(32_768..=49_999),
            reserved_ports: Some(vec![]),
            packet_info: Some(Ok(())),
            ipv6: Some(Ok(())),
            conntrack: None,
            udp_pages: Some((100_000, 200_000)),
            udp_pages_used: Some(20),
            page_size: 4096,
            dropped: Some(7),
            dropped_now: Some(0),
            clock_source: Some("tsc".to_owned()),
            processors: Some(64),
            governor: Some("performance".to_owned()),
            held: vec![],
            directories: vec![Directory { key: "logs.dir", path: "logs".into(), writable: Ok(()) }],
        }
    }

    fn needs(file: &str) -> Needs {
        Needs::of(&Config::parse(file, None).unwrap())
    }

    /// The only finding that is not ok, after one change to a machine without a problem.
    #[track_caller]
    fn only(file: &str, change: impl FnOnce(&mut Facts)) -> Finding {
        let mut facts = good();
        change(&mut facts);
        let bad: Vec<Finding> = examine(&facts, &needs(file))
            .into_iter()
            .filter(|finding| finding.level != Severity::Ok)
            .collect();
        assert_eq!(bad.len(), 1, "{bad:#?}");
        bad.into_iter().next().unwrap()
    }

    #[track_caller]
    fn assert_bad(file: &str, level: Severity, check: &str, fix: &str, change: impl FnOnce(&mut Facts)) {
        let found = only(file, change);
        assert_eq!((found.level, found.check), (level, check), "{found:?}");
        match fix {
            "" => assert!(found.fix.is_empty(), "{found:?}"),
            fix => assert!(found.fix.iter().any(|command| command.starts_with(fix)), "{found:?}"),
        }
    }

    const LOW: &str = r#"{"admin": {"listen": "off"}, "pools": [{"listen": "127.0.0.1:53", "protocol": "dns",
        "servers": ["127.0.0.1:5301"], "workers": 1}]}"#;
    const CLEAR: &str = r#"{"pools": [{"listen": "127.0.0.1:70", "protocol": "datagram",
        "servers": ["127.0.0.1:1"], "transparent": true, "workers": 1}]}"#;
    const WIDE: &str = r#"{"pools": [{"listen": "*:5300", "protocol": "dns", "servers": ["10.0.0.1:5301"],
        "workers": 1, "io": "io_uring"}]}"#;

    #[test]
    fn a_good_machine_has_nothing_to_mend() {
        for file in ["{}", WIDE] {
            let found = examine(&good(), &needs(file));
            assert!(
                found.iter().all(|finding| finding.level == Severity::Ok && finding.fix.is_empty()),
                "{found:#?}"
            );
            assert!(found.len() >= 19, "{found:#?}");
        }
        assert_eq!(
            examine(&Facts::default(), &needs("{}")).len(),
            3,
            "a fact that cannot be read is not checked"
        );
    }

    #[test]
    fn each_lack_is_found_with_its_remedy() {
        use Severity::{Note, Problem};
        let old = |release: &str| only("{}", |f| f.kernel = Some(release.to_owned()));
        assert!(old("5.10.0").found.contains("io_uring as") && old("4.18.2").found.contains("UDP_GRO"));
        assert!(old("4.9.1").found.contains("UDP_SEGMENT") && old("6.0.1").level == Note);
        assert_bad("{}", Problem, "receive buffers", "sysctl -w net.core.rmem_max=4194304", |f| {
            f.receive_buffer = Some(425_984);
        });
        assert_bad("{}", Note, "receive buffers", "sysctl -w net.core.rmem_max=4194304", |f| {
            f.receive_buffer = Some((8 << 20) - 1);
        });
        assert_bad("{}", Note, "send buffers", "sysctl -w net.core.wmem_max=4194304", |f| {
            f.send_buffer = Some(1)
        });
        assert_bad("{}", Note, "UDP GSO", "ethtool", |f| f.gso = Some(Err("no".to_owned())));
        assert_bad("{}", Note, "UDP GRO", "", |f| f.gro = Some(Err("no".to_owned())));
        assert_bad(WIDE, Problem, "io_uring", "sysctl -w kernel.io_uring_disabled=0", |f| {
            (f.io_uring, f.io_uring_disabled) = (Some(Err("no".to_owned())), Some(2));
        });
        assert_bad("{}", Problem, "descriptors", "ulimit -Hn", |f| f.files_max = Some(129));
        assert_bad(LOW, Problem, "privileged ports", "setcap cap_net_bind_service+ep", |_| ());
        assert_bad(CLEAR, Problem, "transparent", "setcap cap_net_raw+ep", |f| f.unprivileged_from = Some(1));
        assert_bad("{}", Note, "fixed ports", "sysctl -w net.ipv4.ip_local_reserved_ports=9,50000-", |f| {
            (f.local_ports, f.reserved_ports) = (Some(32_768..=53_500), Some(vec![9..=9]));
        });
        assert_bad(WIDE, Problem, "local ports", "sysctl -w net.ipv4.ip_local_port_range", |f| {
            f.local_ports = Some(40_000..=40_009);
        });
        assert_bad(WIDE, Problem, "IP_PKTINFO", "", |f| f.packet_info = Some(Err("no".to_owned())));
        assert_bad("{}", Note, "IP_PKTINFO", "", |f| f.packet_info = Some(Err("no".to_owned())));
        assert_bad(WIDE, Problem, "IPv6", "sysctl -w net.ipv6.conf.all.disable_ipv6=0", |f| {
            f.ipv6 = Some(Err("no".to_owned()));
        });
        assert_bad("{}", Problem, "conntrack", "sysctl -w net.netfilter.nf_conntrack_max=400", |f| {
            f.conntrack = Some((81, 100));
        });
        assert_bad(WIDE, Note, "conntrack", "nft add rule", |f| f.conntrack = Some((80, 100)));
        assert_bad("{}", Problem, "UDP memory", "sysctl -w net.ipv4.udp_mem=", |f| {
            f.udp_pages_used = Some(100_000)
        });
        assert_bad("{}", Problem, "UDP memory", "sysctl -w net.ipv4.udp_mem=", |f| {
            f.udp_pages = Some((999, 2_047))
        });
        assert_bad("{}", Problem, "drops", "sysctl -w net.core.rmem_max", |f| f.dropped_now = Some(1));
        assert_bad("{}", Note, "clock", "echo tsc", |f| f.clock_source = Some("hpet".to_owned()));
        assert_bad(LOW, Note, "processors", "", |f| {
            (f.processors, f.unprivileged_from) = (Some(0), Some(53));
        });
        assert_bad("{}", Note, "CPU governor", "cpupower", |f| f.governor = Some("powersave".to_owned()));
        assert_bad("{}", Problem, "logs.dir", "install -d", |f| {
            f.directories[0].writable = Err("no".to_owned())
        });
    }

    #[test]
    fn rights_that_are_there_are_no_problem() {
        for (file, capability) in [(LOW, NET_BIND_SERVICE), (CLEAR, NET_ADMIN), (CLEAR, NET_RAW)] {
            let mut facts = good();
            facts.unprivileged_from = Some(71);
            facts.capabilities = Some(1 << capability | 1 << NET_BIND_SERVICE);
            let found = examine(&facts, &needs(file));
            assert!(found.iter().all(|finding| finding.level == Severity::Ok), "{found:#?}");
        }
    }

    #[test]
    fn taken_addresses_are_told_with_who_has_them() {
        let held = |addr: &str, is_tcp, by: Option<(u32, &str)>| Held {
            addr: addr.parse().unwrap(),
            is_tcp,
            by: by.map(|(pid, name)| (pid, name.to_owned())),
        };
        let found = only(WIDE, |f| f.held = vec![held("127.0.0.1:5300", false, Some((7, "named")))]);
        assert_eq!((found.check, found.level), ("addresses", Severity::Problem));
        assert!(
            found.found.contains("udp 0.0.0.0:5300 (pool ") && found.found.contains("by named (process 7)")
        );
        assert!(found.fix[0].starts_with("ss -lnup 'sport = :5300'"), "{found:?}");
        let own = only(WIDE, |f| f.held = vec![held("[::]:5300", true, Some((7, "lbd")))]);
        assert_eq!((own.level, own.fix.len()), (Severity::Note, 0), "{own:?}");
        let hidden = only(WIDE, |f| f.held = vec![held("[::]:5300", true, None)]);
        assert!(hidden.level == Severity::Problem && hidden.found.contains("another user"), "{hidden:?}");
        for elsewhere in [held("127.0.0.1:5301", false, None), held("127.0.0.1:55080", false, None)] {
            let mut facts = good();
            facts.held = vec![elsewhere];
            assert!(examine(&facts, &needs(WIDE)).iter().all(|finding| finding.level == Severity::Ok));
        }
    }
}
