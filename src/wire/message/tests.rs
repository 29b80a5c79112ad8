use super::*;
use crate::wire::{Header, RequestOp, ServerOp};
use zerocopy::IntoBytes;

const FORMAT: FrameFormat = FrameFormat { size: 256, tagged: false };

/// Each field has a different value, so that a swapped pair is detected.
fn distinct_route() -> Route {
    Route {
        client_ip: std::array::from_fn(|i| 0x40 + i as u8),
        client_port: 0x5051,
        listener: 0x52,
        worker: 0x53,
        balancer_epoch: 0x5455_5657,
        server_epoch: 0x5859_5a5b,
        slot: 0x5c5d,
        incomplete: 0x5e5f,
        dispatch_seq: 0x6061_6263,
        dispatch_us: 0x6465_6667,
        cookie: 0x6869_6a6b_6c6d_6e6f,
    }
}

fn distinct_report() -> Report {
    Report {
        report: 0x7071_7273,
        seq: 0x7475_7677,
        received: 0x7879_7a7b,
        done: 0x7c7d_7e7f,
        queue: 0x8081_8283,
        foreign: 0x8485_8687,
        service_us: 0x8889_8a8b,
        server_state: 0x8c,
        reserved: [0x8d, 0x8e, 0x8f],
    }
}

/// One message of each kind, in the order of the kinds.
fn messages() -> [Message; 4] {
    let mut request = Message::new(Kind::ClientRequest, 0x1011_1213_1415_1617, 0x1819_1a1b_1c1d_1e1f);
    (request.mode, request.attempt, request.deadline_us) = (1, 3, 0x0c0d_0e0f);
    (request.route, request.report) = (distinct_route(), distinct_report());
    let mut response = Message::new(Kind::ClientResponse, 7, 8);
    (response.status, response.deadline_us) = (1, 5000);
    let mut order = Message::new(Kind::ControllerRequest, 9, 10);
    (order.op, order.attempt, order.route) = (RequestOp::Shrink as u8, 1, distinct_route());
    order.report = Report { report: 11, seq: 12, received: 13, server_state: 2, ..Report::default() };
    let mut report = Message::new(Kind::ServerResponse, 14, 0);
    (report.op, report.route, report.report) = (ServerOp::Report as u8, distinct_route(), distinct_report());
    [request, response, order, report]
}

#[test]
fn a_message_survives_its_frame() {
    for message in messages() {
        let mut bytes = [0xaa; 256];
        message.encode(b"payload", &FORMAT, &mut bytes);
        let (decoded, payload) = Message::decode(&mut bytes, &FORMAT).unwrap();
        assert_eq!(payload, b"payload");
        assert_eq!(decoded, Message { frame_size: 256, payload_len: 7, ..message });
        assert!(bytes[HEADER_LEN + 7..].iter().all(|&b| b == 0));
    }
}

#[test]
fn the_view_equals_the_postcard_bytes_of_every_field() {
    for (message, kind) in messages().into_iter().zip(1..) {
        let mut bytes = [0; 256];
        message.encode(b"", &FORMAT, &mut bytes);
        let mut header = Header::new(Kind::from_wire(kind).unwrap(), 256);
        (header.status, header.mode) = (message.status, message.mode);
        (header.attempt, header.op) = (message.attempt, message.op);
        header.deadline_us.set(message.deadline_us);
        header.client_id.set(message.client_id);
        header.sequence.set(message.sequence);
        let (route, report) = (message.route, message.report);
        header.client_ip = route.client_ip;
        header.client_port.set(route.client_port);
        (header.listener, header.worker) = (route.listener, route.worker);
        header.balancer_epoch.set(route.balancer_epoch);
        header.server_epoch.set(route.server_epoch);
        header.slot.set(route.slot);
        header.incomplete.set(route.incomplete);
        header.dispatch_seq.set(route.dispatch_seq);
        header.dispatch_us.set(route.dispatch_us);
        header.cookie.set(route.cookie);
        header.report.set(report.report);
        header.seq.set(report.seq);
        header.received.set(report.received);
        header.done.set(report.done);
        header.queue.set(report.queue);
        header.foreign.set(report.foreign);
        header.service_us.set(report.service_us);
        header.server_state = report.server_state;
        header.reserved = report.reserved;
        assert_eq!(header.as_bytes(), &bytes[..HEADER_LEN], "kind {kind}");
    }
}

#[test]
fn every_truncation_and_foreign_kind_is_refused() {
    for message in messages() {
        let mut bytes = [0; 256];
        message.encode(b"payload", &FORMAT, &mut bytes);
        for len in 0..256 {
            assert_eq!(Message::decode(&mut bytes[..len], &FORMAT), Err(DropReason::Length));
        }
    }
}

#[test]
fn a_registration_survives_its_payload() {
    let registration = Registration {
        server_id: 3,
        queue_capacity: 4096,
        report_interval_us: 10_000,
        weight: 2,
        reserved: [0; 2],
    };
    assert_eq!(Registration::from_bytes(&registration.to_bytes()), Some(registration));
    assert_eq!(Registration::from_bytes(&[0; 15]), None);
}
