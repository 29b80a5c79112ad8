//! A frame of a stranger: the view, the message, and the trailer.
#![no_main]

use lbd::base::drop_reason::DropReason;
use lbd::wire::header::{HEADER_LEN, TRAILER_LEN};
use lbd::wire::message::Message;
use lbd::wire::{Frame, FrameFormat, Opener, Sealer};
use libfuzzer_sys::fuzz_target;

const KEY: [u8; 16] = [7; 16];

fuzz_target!(|data: &[u8]| {
    let Some((selector, bytes)) = data.split_first() else { return };
    let format = match selector % 4 {
        0 => FrameFormat::plain(128),
        1 => FrameFormat::tagged(160),
        2 => FrameFormat::plain(131),
        _ => FrameFormat { size: bytes.len().clamp(128, 1_200), tagged: false },
    };
    let mut received = bytes.to_vec();
    let decoded =
        Message::decode(&mut received, &format).map(|(message, payload)| (message, payload.to_vec()));
    assert_eq!(received, bytes, "a look changes nothing");
    match Frame::check(&mut received, &format) {
        Err(reason) => {
            assert_eq!(decoded, Err(reason));
            assert!(reason != DropReason::Length || bytes.len() != format.size);
            return;
        }
        Ok(frame) => {
            let (_, payload) = decoded.as_ref().expect("a frame is a message");
            assert_eq!((frame.payload(), frame.bytes()), (payload.as_slice(), bytes));
            assert!(payload.len() <= format.payload_max() && bytes.len() == format.size);
            let _ = frame.kind();
        }
    }
    let (message, payload) = decoded.expect("it was just compared");
    let mut written = vec![0xaa; format.size];
    message.encode(&payload, &format, &mut written);
    let end = HEADER_LEN + payload.len();
    assert_eq!(written[..end], bytes[..end], "a message is its bytes");
    assert!(written[end..].iter().all(|&byte| byte == 0));
    assert_eq!(Message::decode(&mut written, &format), Ok((message, payload.as_slice())));

    if format.tagged {
        assert_eq!(Opener::new(&KEY).open(bytes), Err(DropReason::Tag), "the tag was guessed");
        let mut sealer = Sealer::new(&KEY, 5);
        sealer.seal(&mut written);
        assert_eq!(Opener::new(&KEY).open(&written), Ok(sealer.last()));
        let at = usize::from(bytes[bytes.len() - 1]) % (written.len() - TRAILER_LEN / 2);
        written[at] ^= 1 << (selector >> 5);
        assert_eq!(Opener::new(&KEY).open(&written), Err(DropReason::Tag), "the tag covers byte {at}");
    }
});
