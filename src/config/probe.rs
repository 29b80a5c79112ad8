//! Content of a health check, as a configuration writes it. Pure.

use crate::wire::dns::{RCODES, TYPES, name_to_wire, type_number};

/// Most bytes of a payload: what one datagram carries on an ordinary path.
pub const PAYLOAD_LEN_MAX: usize = 1_472;

/// The name in wire format and the type of `example.com A`; the error says what to write.
pub fn query(text: &str) -> Result<(Vec<u8>, u16), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [name, kind] = words[..] else {
        return Err("is not a name and a type; write one such as \"example.com A\"".to_owned());
    };
    let kind = type_number(kind).filter(|number| *number > 0).ok_or_else(|| {
        let names = TYPES.map(|(name, _)| name).join(", ");
        format!("ends in an unknown type; use {names} or a number from 1 to 65535")
    })?;
    let name = name_to_wire(name).map_err(|_| {
        "does not begin with a DNS name: labels of 1 to 63 characters (ASCII), 255 in all; write one such as \
         example.com, or . for the root"
            .to_owned()
    })?;
    Ok((name, kind))
}

/// The type of a record in words.
pub fn kind_name(kind: u16) -> String {
    let known = TYPES.iter().find(|&&(_, number)| number == kind);
    known.map_or(format!("type {kind}"), |(name, _)| (*name).to_owned())
}

/// The number of an RCODE such as NXDOMAIN, in any case; the error says what to write.
pub fn rcode(text: &str) -> Result<u16, String> {
    let text = text.trim().to_ascii_uppercase();
    let known = RCODES.iter().find(|(name, _)| *name == text);
    known.map(|(_, number)| *number).ok_or_else(|| {
        let names = RCODES.map(|(name, _)| name).join(", ");
        format!("is an unknown RCODE; use {names}")
    })
}

/// An RCODE in words.
pub fn rcode_name(rcode: u16) -> String {
    let known = RCODES.iter().find(|&&(_, number)| number == rcode);
    known.map_or(format!("RCODE {rcode}"), |(name, _)| (*name).to_owned())
}

/// A name in wire format in words.
pub fn shown_name(mut wire: &[u8]) -> String {
    let mut text = String::new();
    while let [len, rest @ ..] = wire
        && let Some((label, rest)) = rest.split_at_checked(usize::from(*len))
        && !label.is_empty()
    {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(&String::from_utf8_lossy(label));
        wire = rest;
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

/// The bytes of a text, or of `hex:0a0b`; the error says what to write.
pub fn payload(text: &str) -> Result<Vec<u8>, String> {
    let bytes = match text.strip_prefix("hex:") {
        None => text.as_bytes().to_vec(),
        Some(digits) => {
            let remedy = "does not hold pairs of hex digits after hex:; write bytes as in hex:0a0b";
            hex::decode(digits).map_err(|_| remedy.to_owned())?
        }
    };
    match bytes.len() {
        0 => Err("is empty; write a text, or bytes as in hex:0a0b, or remove the key".to_owned()),
        len if len > PAYLOAD_LEN_MAX => Err(format!("has {len} bytes; {PAYLOAD_LEN_MAX} are the most")),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_is_a_name_and_a_type() {
        for (text, name, kind) in [
            (". NS", &b"\0"[..], 2),
            ("example.com A", b"\x07example\x03com\0", 1),
            (" Example.com.  aaaa ", b"\x07Example\x03com\0", 28),
            ("a SOA", b"\x01a\0", 6),
            ("_sip._udp.a SRV", b"\x04_sip\x04_udp\x01a\0", 33),
            ("a TXT", b"\x01a\0", 16),
            ("a MX", b"\x01a\0", 15),
            ("a PTR", b"\x01a\0", 12),
            ("a CNAME", b"\x01a\0", 5),
            ("a ANY", b"\x01a\0", 255),
            ("a 65535", b"\x01a\0", 65_535),
        ] {
            assert_eq!(query(text), Ok((name.to_vec(), kind)), "{text}");
        }
        let long_label = format!("{} A", "x".repeat(64));
        let long_name = format!("{} A", "abc.".repeat(64)); // 257 bytes
        for (text, says) in [
            ("", "such as \"example.com A\""),
            ("example.com", "such as \"example.com A\""),
            ("example.com IN A", "such as \"example.com A\""),
            ("example.com B", "unknown type; use A, NS"),
            ("example.com 0", "unknown type"),
            ("example.com 65536", "unknown type"),
            ("a..b A", "labels of 1 to 63"),
            (".. A", "labels of 1 to 63"),
            (".a A", "labels of 1 to 63"),
            ("b\u{fc}cher A", "labels of 1 to 63"),
            (&long_label, "labels of 1 to 63"),
            (&long_name, "labels of 1 to 63"),
        ] {
            let problem = query(text).unwrap_err();
            assert!(problem.contains(says), "{text}: {problem}");
        }
        let longest = format!("{}ab A", "abc.".repeat(62)); // 62 x 4 + 3 + 1 = 252 bytes
        assert_eq!(query(&longest).unwrap().0.len(), 252);
    }

    #[test]
    fn names_and_types_are_shown_as_they_are_written() {
        for text in [". NS", "example.com A", "_sip._udp.a SRV"] {
            let (name, kind) = query(text).unwrap();
            assert_eq!(format!("{} {}", shown_name(&name), kind_name(kind)), text);
        }
        assert_eq!(kind_name(99), "type 99");
        assert_eq!(shown_name(b"\x05abc"), ".", "what is cut off is not shown");
    }

    #[test]
    fn an_rcode_is_a_name() {
        for (name, number) in RCODES {
            assert_eq!(rcode(&format!(" {}", name.to_lowercase())), Ok(number));
            assert_eq!(rcode_name(number), name);
        }
        assert!(rcode("NOERR").unwrap_err().contains("use NOERROR, FORMERR, SERVFAIL"));
        assert_eq!(rcode_name(99), "RCODE 99");
    }

    #[test]
    fn a_payload_is_a_text_or_bytes() {
        assert_eq!(payload("ping\n").unwrap(), b"ping\n");
        assert_eq!(payload("hex:000aFf").unwrap(), [0, 10, 255]);
        for (text, says) in [
            ("", "is empty"),
            ("hex:", "is empty"),
            ("hex:0", "pairs of hex digits"),
            ("hex:0g", "pairs of hex digits"),
            ("hex:+1", "pairs of hex digits"),
            ("hex:\u{e9}\u{e9}", "pairs of hex digits"),
        ] {
            let problem = payload(text).unwrap_err();
            assert!(problem.contains(says), "{text}: {problem}");
        }
        assert_eq!(payload(&"x".repeat(PAYLOAD_LEN_MAX)).unwrap().len(), PAYLOAD_LEN_MAX);
        assert!(payload(&"x".repeat(PAYLOAD_LEN_MAX + 1)).unwrap_err().contains("1472 are the most"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}|[a-z.]{0,300} [A-Z0-9]{1,6}|hex:[0-9a-f]{0,20}") {
            let _ = payload(&text);
            if let Ok((name, kind)) = query(&text) {
                prop_assert!(name.len() <= crate::wire::dns::NAME_MAX && kind > 0);
                prop_assert_eq!(query(&format!("{} {kind}", shown_name(&name))), Ok((name, kind)));
            }
        }
    }
}
