//! The frame: view, patch, cookie, postcard, against a plain copy. `cargo bench --bench codec`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lbd::wire::message::Message;
use lbd::wire::tag::{Opener, Sealer};
use lbd::wire::{CookieKey, Frame, FrameFormat, Kind};

fn request(format: &FrameFormat) -> Vec<u8> {
    let mut bytes = vec![0; format.size];
    Message::new(Kind::ClientRequest, 7, 9).encode(&[1; 64], format, &mut bytes);
    bytes
}

/// Everything that the balancer writes into a request.
fn patch(frame: &mut Frame<'_>, n: u32) {
    let header = &mut frame.header;
    header.client_ip = [7; 16];
    header.client_port.set(n as u16);
    header.listener = 255;
    header.worker = 0;
    header.balancer_epoch.set(n);
    header.server_epoch.set(n);
    header.slot.set(3);
    header.dispatch_seq.set(n);
    header.dispatch_us.set(n);
}

fn codec(c: &mut Criterion) {
    let format = FrameFormat::plain(256);
    let mut bytes = request(&format);
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Elements(1));
    group.bench_function("view", |b| {
        b.iter(|| {
            let frame = Frame::check(black_box(&mut bytes), &format).unwrap();
            black_box((frame.kind() == Kind::ClientRequest, frame.header.sequence.get()));
        });
    });
    let mut n = 0;
    group.bench_function("view_and_patch", |b| {
        b.iter(|| {
            n += 1;
            let mut frame = Frame::check(black_box(&mut bytes), &format).unwrap();
            patch(&mut frame, n);
            black_box(frame.header.slot.get());
        });
    });
    let key = CookieKey::new([3; 16]);
    group.bench_function("cookie", |b| {
        let frame = Frame::check(&mut bytes, &format).unwrap();
        b.iter(|| key.cookie(black_box(&frame.header)));
    });
    group.bench_function("cookie_made_and_checked", |b| {
        let mut frame = Frame::check(&mut bytes, &format).unwrap();
        b.iter(|| {
            let cookie = key.cookie(black_box(&frame.header));
            frame.header.cookie.set(cookie);
            assert_eq!(key.cookie(black_box(&frame.header)), frame.header.cookie.get());
        });
    });
    group.bench_function("decode", |b| {
        b.iter(|| {
            black_box(Message::decode(black_box(&mut bytes), &format).unwrap());
        });
    });
    let message = Message::new(Kind::ClientRequest, 7, 9);
    group.bench_function("encode", |b| {
        b.iter(|| black_box(message).encode(&[1; 64], &format, black_box(&mut bytes)))
    });
    let source = request(&format);
    group.bench_function("memcpy_256", |b| {
        b.iter(|| black_box(&mut bytes).copy_from_slice(black_box(&source)))
    });
    let tagged = FrameFormat::tagged(256);
    let mut sealed = request(&tagged);
    let (mut sealer, opener) = (Sealer::new(&[5; 16], 1), Opener::new(&[5; 16]));
    group.bench_function("seal_256", |b| b.iter(|| sealer.seal(black_box(&mut sealed))));
    group.bench_function("open_256", |b| b.iter(|| opener.open(black_box(&sealed)).unwrap()));
}

criterion_group!(benches, codec);
criterion_main!(benches);
