//! The vectors of docs/PROTOCOL.md against the library, both ways.

use std::collections::BTreeMap;

use lbd::base::time::Instant;
use lbd::wire::frame::unpack_addr;
use lbd::wire::message::Message;
use lbd::wire::{CookieKey, Frame, FrameFormat, Header, Opener, Sealer};
use zerocopy::{FromBytes, IntoBytes};

type Vector = BTreeMap<String, String>;

const NAMES: [&str; 16] = [
    "ack",
    "busy_response",
    "challenge",
    "client_request",
    "client_response",
    "dispatched_direct",
    "dispatched_request",
    "grow",
    "nonce",
    "register",
    "register_echo",
    "reply",
    "report",
    "shrink",
    "sync",
    "tagged_report",
];

/// Blocks of `name = value` lines, opened by ```` ```vector NAME ````. The parts of a name that comes twice
/// are joined.
fn vectors() -> BTreeMap<String, Vector> {
    let text = include_str!("../docs/PROTOCOL.md");
    let mut found = BTreeMap::new();
    for block in text.split("```vector ").skip(1) {
        let (name, rest) = block.split_once('\n').expect("a name");
        let mut vector = Vector::new();
        for line in rest.split_once("```").expect("an end").0.lines() {
            let (key, value) = line.split_once(" = ").expect("name = value");
            vector.entry(key.to_owned()).or_default().push_str(&value.replace(' ', ""));
        }
        assert!(found.insert(name.to_owned(), vector).is_none(), "{name} comes twice");
    }
    found
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

fn key(hex: &str) -> [u8; 16] {
    bytes(hex).try_into().expect("16 bytes")
}

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).expect("hexadecimal"),
        None => text.parse().expect("a number"),
    }
}

/// The header that the fields of a vector name.
fn header(name: &str, vector: &Vector) -> Header {
    let mut header = Header::new(lbd::wire::Kind::ClientRequest, 0);
    for (field, text) in vector {
        if field == "client_ip" {
            header.client_ip = key(text);
            continue;
        }
        if ["frame", "payload", "cookie_key", "tag_key", "tag_epoch", "tag_counter"].contains(&field.as_str())
        {
            continue;
        }
        let value = number(text);
        match field.as_str() {
            "frame_size" => header.frame_size.set(value as u16),
            "kind" => header.kind = value as u8,
            "status" => header.status = value as u8,
            "mode" => header.mode = value as u8,
            "attempt" => header.attempt = value as u8,
            "op" => header.op = value as u8,
            "deadline_us" => header.deadline_us.set(value as u32),
            "client_id" => header.client_id.set(value),
            "sequence" => header.sequence.set(value),
            "client_port" => header.client_port.set(value as u16),
            "listener" => header.listener = value as u8,
            "worker" => header.worker = value as u8,
            "balancer_epoch" => header.balancer_epoch.set(value as u32),
            "server_epoch" => header.server_epoch.set(value as u32),
            "slot" => header.slot.set(value as u16),
            "incomplete" => header.incomplete.set(value as u16),
            "dispatch_seq" => header.dispatch_seq.set(value as u32),
            "dispatch_us" => header.dispatch_us.set(value as u32),
            "cookie" => header.cookie.set(value),
            "report" => header.report.set(value as u32),
            "seq" => header.seq.set(value as u32),
            "received" => header.received.set(value as u32),
            "done" => header.done.set(value as u32),
            "queue" => header.queue.set(value as u32),
            "foreign" => header.foreign.set(value as u32),
            "service_us" => header.service_us.set(value as u32),
            "server_state" => header.server_state = value as u8,
            other => panic!("{name}: {other} is no field"),
        }
    }
    header
}

fn format_of(vector: &Vector) -> FrameFormat {
    let size = number(&vector["frame_size"]) as usize;
    if vector.contains_key("tag_key") { FrameFormat::tagged(size) } else { FrameFormat::plain(size) }
}

fn payload_of(vector: &Vector) -> Vec<u8> {
    vector.get("payload").map(|hex| bytes(hex)).unwrap_or_default()
}

fn frames() -> impl Iterator<Item = (String, Vector)> {
    vectors().into_iter().filter(|(name, _)| name != "nonce")
}

#[test]
fn no_vector_is_missing() {
    assert_eq!(vectors().into_keys().collect::<Vec<_>>(), NAMES);
}

#[test]
fn encoding_gives_exactly_these_bytes() {
    for (name, vector) in frames() {
        let mut made = vec![0; format_of(&vector).size];
        Frame::write(&mut made, &header(&name, &vector), &payload_of(&vector));
        if let Some(tag_key) = vector.get("tag_key") {
            let mut sealer = Sealer::new(&key(tag_key), number(&vector["tag_epoch"]));
            (0..number(&vector["tag_counter"])).for_each(|_| sealer.seal(&mut made));
        }
        assert_eq!(made, bytes(&vector["frame"]), "{name}");
    }
}

#[test]
fn decoding_gives_exactly_these_fields() {
    for (name, vector) in frames() {
        let mut frame = bytes(&vector["frame"]);
        let format = format_of(&vector);
        if let Some(tag_key) = vector.get("tag_key") {
            let stamp = Opener::new(&key(tag_key)).open(&frame).expect("the tag is right");
            let named = (number(&vector["tag_epoch"]), number(&vector["tag_counter"]));
            assert_eq!((stamp.epoch, stamp.counter), named, "{name}");
        }
        let mut wanted = header(&name, &vector);
        wanted.payload_len.set(payload_of(&vector).len() as u16);
        let view = Frame::check(&mut frame, &format).unwrap();
        assert_eq!(view.header, wanted, "{name}");
        assert_eq!(view.payload(), payload_of(&vector), "{name}");
    }
}

#[test]
fn the_messages_say_the_same() {
    for (name, vector) in frames() {
        let (format, frame) = (format_of(&vector), bytes(&vector["frame"]));
        let (message, payload) = {
            let mut copy = frame.clone();
            let (message, payload) = Message::decode(&mut copy, &format).unwrap();
            (message, payload.to_vec())
        };
        assert_eq!(u64::from(message.kind), number(&vector["kind"]), "{name}");
        let mut again = vec![0xff; format.size];
        message.encode(&payload, &format, &mut again);
        let end = format.size - if format.tagged { 32 } else { 0 };
        assert_eq!(again[..end], frame[..end], "{name}");
    }
}

#[test]
fn cookies_and_nonce_are_those_of_the_key() {
    let mut compared = 0;
    for (name, vector) in frames() {
        let Some(cookie_key) = vector.get("cookie_key") else { continue };
        let frame = bytes(&vector["frame"]);
        let header = Header::ref_from_prefix(&frame).unwrap().0;
        assert_eq!(CookieKey::new(key(cookie_key)).cookie(header), header.cookie.get(), "{name}");
        assert_eq!(header.as_bytes(), &frame[..112]);
        compared += 1;
    }
    assert_eq!(compared, 3, "the dispatched request, its direct form and its reply");
    let vector = &vectors()["nonce"];
    let peer = unpack_addr(key(&vector["nonce_ip"]), number(&vector["nonce_port"]) as u16);
    let now = Instant::from_nanos(number(&vector["nonce_span"]) * 2_000_000_000);
    let nonce = CookieKey::new(key(&vector["nonce_key"])).nonce(now, peer, number(&vector["nonce_instance"]));
    assert_eq!(nonce, number(&vector["nonce"]));
    assert_eq!(nonce, number(&vectors()["challenge"]["cookie"]), "it is the one of the challenge");
}
