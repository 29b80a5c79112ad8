use super::*;
use crate::wire::{Header, RequestOp, ServerOp};
use zerocopy::{FromBytes, IntoBytes};

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

fn messages() -> [Message; 4] {
    let mut request = ClientRequest::new(0x1011_1213_1415_1617, 0x1819_1a1b_1c1d_1e1f);
    (request.mode, request.attempt, request.deadline_us) = (1, 3, 0x0c0d_0e0f);
    (request.route, request.report) = (distinct_route(), distinct_report());
    let mut response = ClientResponse::new(7, 8);
    (response.status, response.retry_after_us) = (1, 5000);
    let mut order = ControllerRequest::new(RequestOp::Shrink, 9, 10);
    (order.target, order.load_milli, order.servers_up, order.server_state) = (11, 12, 13, 2);
    order.route = distinct_route();
    let mut report = ServerResponse::new(ServerOp::Report, 14);
    (report.route, report.report) = (distinct_route(), distinct_report());
    [
        Message::ClientRequest(request),
        Message::ClientResponse(response),
        Message::ControllerRequest(order),
        Message::ServerResponse(report),
    ]
}

#[test]
fn a_message_survives_its_frame() {
    for message in messages() {
        let mut bytes = [0xaa; 256];
        message.encode(b"payload", &FORMAT, &mut bytes);
        let (mut decoded, payload) = Message::decode(&mut bytes, &FORMAT).unwrap();
        assert_eq!(payload, b"payload");
        *decoded.lead_mut() = Lead { frame_size: 0, payload_len: 0, ..*decoded.lead_mut() };
        assert_eq!(decoded, message);
        assert!(bytes[HEADER_LEN + 7..].iter().all(|&b| b == 0));
    }
}

#[test]
fn the_view_equals_the_postcard_bytes_of_every_field() {
    let [Message::ClientRequest(request), ..] = messages() else { unreachable!() };
    let mut bytes = [0; 256];
    Message::ClientRequest(request).encode(b"", &FORMAT, &mut bytes);
    let mut header = Header::new(Kind::ClientRequest, 256);
    (header.mode, header.attempt) = (request.mode, request.attempt);
    header.deadline_us.set(request.deadline_us);
    header.client_id.set(request.client_id);
    header.sequence.set(request.sequence);
    let (route, report) = (request.route, request.report);
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
    assert_eq!(header.as_bytes(), &bytes[..HEADER_LEN]);
}

#[test]
fn the_other_messages_share_the_offsets() {
    let header_of = |message: Message| {
        let mut bytes = [0; 256];
        message.encode(b"", &FORMAT, &mut bytes);
        Header::read_from_bytes(&bytes[..HEADER_LEN]).unwrap()
    };
    let [_, response, order, report] = messages().map(header_of);
    assert_eq!((response.status, response.deadline_us.get()), (1, 5000));
    assert_eq!((order.client_id.get(), order.sequence.get(), order.op), (9, 10, RequestOp::Shrink as u8));
    assert_eq!((order.report.get(), order.seq.get(), order.received.get()), (11, 12, 13));
    assert_eq!(
        (order.server_state, order.slot.get(), order.cookie.get()),
        (2, 0x5c5d, distinct_route().cookie)
    );
    assert_eq!((report.client_id.get(), report.op), (14, ServerOp::Report as u8));
    assert_eq!((report.done.get(), report.server_state), (0x7c7d_7e7f, 0x8c));
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
