//! A message of a handover, its preface, and the state in it.
#![no_main]

use lbd::daemon::handover::{HandoverMessage, PREFACE_LEN, check_preface, preface};
use lbd::daemon::instance::decode_state;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(first) = data.first_chunk::<PREFACE_LEN>() {
        assert_eq!(check_preface(first).is_ok(), *first == preface());
    }
    if let Ok(message) = HandoverMessage::decode(data) {
        let bytes = message.encode().expect("what was read can be written");
        assert!(bytes.len() <= data.len(), "the shortest form");
        assert_eq!(HandoverMessage::decode(&bytes).expect("it was just written"), message);
        let longer = [&bytes[..], &[0]].concat();
        assert!(HandoverMessage::decode(&longer).is_err(), "bytes after the end");
        if let HandoverMessage::State(state) = &message {
            let _ = decode_state(state);
        }
    }
    let _ = decode_state(data);
});
