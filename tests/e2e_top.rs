//! `lbd top` on a real terminal, before a balancer that is not there.

mod common;

use std::process::Command;

use common::fake_admin::{Canned, FakeAdmin};
use common::fakes::v4;
use common::terminal::Terminal;
use common::{Site, send_signal, wait_for};
use lbd::admin::status::{EventEntry, EventKind, PoolStatus, ServerStatus, Status};
use serde_json::json;

const TOKEN: &str = "0123456789abcdef";

fn fake(site: &Site) -> FakeAdmin {
    let server = |id, queue| ServerStatus { id, state: "up".to_owned(), queue, ..ServerStatus::default() };
    let status = Status {
        pools: vec![PoolStatus {
            name: "native".to_owned(),
            protocol: "native".to_owned(),
            servers: vec![server(0, 5), server(7, 9)],
            ..PoolStatus::default()
        }],
        events: vec![EventEntry {
            kind: EventKind::Scaling,
            text: "scale up 1 -> 2: load".to_owned(),
            ..EventEntry::default()
        }],
        ..Status::default()
    };
    let status = serde_json::to_value(status).unwrap();
    FakeAdmin::start(v4(site.port(0)), Canned { status, token: TOKEN.to_owned(), ..Canned::default() })
}

/// `lbd top` of a balancer at this address.
fn top(site: &Site, columns: u16, rows: u16, with_token: bool) -> Terminal {
    let admin = match with_token {
        true => {
            use std::os::unix::fs::PermissionsExt;
            let file = site.write("token", TOKEN);
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            json!({ "listen": v4(site.port(0)).to_string(), "token_file": file })
        }
        false => json!({ "listen": v4(site.port(0)).to_string() }),
    };
    let config = site.write("top.json", &json!({ "admin": admin, "state_dir": site.path() }).to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_lbd"));
    command.args(["top", "--interval", "100ms", "--config"]).arg(config).current_dir(site.path());
    Terminal::start(&mut command, columns, rows)
}

#[test]
fn a_server_is_drained_and_a_restart_is_lived_through() {
    let site = Site::new(json!({}));
    let mut fake = fake(&site);
    let mut top = top(&site, 80, 24, true);
    top.wait_for_text("live");
    for text in ["up 2 of 2", "queue 14", "scale up 1 -> 2: load", "servers up: 2", "q quit"] {
        top.wait_for_text(text);
    }
    assert!(top.is_raw());
    // By queue, the longest first: so the first row is server 7.
    top.press("4");
    top.wait_for_text("4queuev");
    top.press("\x1b[B");
    top.press("d");
    top.wait_for_text("drain server 7 of native? y: yes");
    top.press("n");
    top.wait_for_text("q quit");
    assert!(fake.posts().is_empty());
    top.press("d");
    top.wait_for_text("drain server 7");
    top.press("y");
    top.wait_for_text("drain of server 7 of native: accepted");
    let post = fake.posts().remove(0);
    assert_eq!(post.path, "/api/servers/7/drain?pool=native");
    assert_eq!(post.authorization, format!("Bearer {TOKEN}"));
    fake.change(|canned| canned.refusal = Some((409, "it may not be".to_owned())));
    top.press("e");
    top.wait_for_text("enable server 7");
    top.press("y");
    top.wait_for_text("refused: it may not be");
    fake.go();
    top.wait_for_text("NO RESPONSE, retrying");
    top.wait_for_text("queue 14");
    fake.come_back();
    wait_for("the balancer again", || (!top.text().contains("NO RESPONSE")).then_some(()), || top.text());
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
    top.assert_restored();
}

#[test]
fn the_terminal_is_restored_however_it_ends() {
    let site = Site::new(json!({}));
    let _fake = fake(&site);
    for (columns, rows, key) in [(80, 24, "\x1b"), (40, 10, "\x03"), (12, 4, "q"), (200, 60, "")] {
        let mut top = top(&site, columns, rows, false);
        top.wait_for_text("lbd top");
        wait_for("raw mode", || top.is_raw().then_some(()), String::new);
        match key {
            "" => send_signal(top.pid(), libc::SIGTERM),
            key => top.press(key),
        }
        assert_eq!(top.end().code(), Some(0), "{key:?}");
        top.assert_restored();
    }
}

#[test]
fn without_a_token_it_looks_only_and_says_what_is_missing() {
    let site = Site::new(json!({}));
    let fake = fake(&site);
    let mut top = top(&site, 200, 24, false);
    top.wait_for_text("live");
    top.press("\x1b[B");
    top.press("d");
    top.wait_for_text("y: yes");
    top.press("y");
    top.wait_for_text(&format!("admin-{}.token", site.port(0)));
    assert!(fake.posts().is_empty());
}

#[test]
fn without_a_terminal_or_a_balancer_s_address_it_says_what_to_do() {
    let site = Site::new(json!({}));
    let finished = site.start(&["top"]).finish();
    assert!(finished.code == 2 && finished.stderr.contains("lbd status --json"), "{finished:?}");
}
