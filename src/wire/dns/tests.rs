//! Tests of the whole module with captured bytes, and against a slow, simple parser.

use super::*;
use crate::base::drop_reason::DropReason;
use proptest::collection::vec;
use proptest::prelude::*;

/// `Example.com`, AAAA, IN, with RD, CD and an OPT record.
const QUERY: &[u8] = b"\x12\x34\x01\x10\x00\x01\x00\x00\x00\x00\x00\x01\
    \x07Example\x03com\x00\x00\x1c\x00\x01\
    \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";

fn key() -> QuestionKey {
    QuestionKey::new(*b"a key of a test.")
}

/// A message with these flags and questions, and these bytes after the header.
fn message(flags: [u8; 2], questions: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, flags[0], flags[1]];
    message.extend(questions.to_be_bytes());
    message.extend([0; 6]);
    message.extend(rest);
    message
}

/// The labels, type and class of a message with this QR, parsed byte by byte.
fn slow(message: &[u8], response: bool) -> Option<(Vec<Vec<u8>>, u16, u16)> {
    let mut bytes = message.iter().copied();
    let header: Vec<u8> = bytes.by_ref().take(12).collect();
    if header.len() < 12 || (header[2] >= 128) != response || header[4] != 0 || header[5] != 1 {
        return None;
    }
    let mut labels = Vec::new();
    loop {
        let len = usize::from(bytes.next()?);
        if len == 0 {
            break;
        }
        let label: Vec<u8> = bytes.by_ref().take(len).map(|b| b.to_ascii_lowercase()).collect();
        if len > 63 || label.len() < len {
            return None;
        }
        labels.push(label);
    }
    if labels.iter().map(|label| label.len() + 1).sum::<usize>() + 1 > 255 {
        return None;
    }
    let mut number = || Some(u16::from(bytes.next()?) * 256 + u16::from(bytes.next()?));
    Some((labels, number()?, number()?))
}

/// The labels of a name in wire format, as `slow` returns them.
fn labels(mut name: &[u8]) -> Vec<Vec<u8>> {
    let mut labels = Vec::new();
    while name[0] > 0 {
        let (label, rest) = name[1..].split_at(name[0].into());
        labels.push(label.to_ascii_lowercase());
        name = rest;
    }
    labels
}

fn as_slow(question: Question) -> (Vec<Vec<u8>>, u16, u16) {
    (labels(question.name), question.kind, question.class)
}

#[test]
fn a_query_is_read_with_its_question() {
    let question = query(QUERY).unwrap();
    assert_eq!((question.name, question.kind, question.class), (&b"\x07Example\x03com\0"[..], 28, 1));
    assert_eq!((id(QUERY), opcode(QUERY), question.wire_len()), (0x1234, 0, 17));
    assert_eq!(response(QUERY), Err(Malformed::Query));
}

#[test]
fn a_response_is_read_with_its_question() {
    let message = message([0xab, 0x83], 1, &QUERY[12..]);
    assert_eq!(response(&message), Ok(query(QUERY).unwrap()));
    assert_eq!(query(&message), Err(Malformed::Response));
    assert_eq!(opcode(&message), 5);
}

#[test]
fn each_fault_has_its_name() {
    let question = |rest: &[u8]| query(&message([0, 0], 1, rest)).map(|question| question.name.len());
    assert_eq!(query(&QUERY[..11]), Err(Malformed::Short));
    assert_eq!(response(&[]), Err(Malformed::Short));
    for count in [0, 2, 256, 257] {
        assert_eq!(query(&message([0, 0], count, &QUERY[12..])), Err(Malformed::Question), "{count}");
    }
    assert_eq!(question(b"\0\0\x01\0\x01"), Ok(1), "the root");
    assert_eq!(question(b""), Err(Malformed::Question), "no question");
    assert_eq!(question(b"\x01a\0\0\x01\0"), Err(Malformed::Question), "half a class");
    assert_eq!(question(b"\x05abc\0\0\x01\0\x01"), Err(Malformed::Question), "a label past the end");
    assert_eq!(question(b"\xc0\x0c\0\x01\0\x01\0\0"), Err(Malformed::Question), "a pointer");
    assert_eq!(question(b"\x40abc\0\0\x01\0\x01"), Err(Malformed::Question), "a reserved length");
}

#[test]
fn names_of_up_to_255_bytes_pass() {
    for (last, ok) in [(61, true), (62, false)] {
        let mut rest = [&[63][..], &[b'a'; 63]].concat().repeat(3);
        rest.push(last);
        rest.extend(vec![b'b'; last.into()]);
        rest.extend(b"\0\0\x01\0\x01");
        assert_eq!(query(&message([0, 0], 1, &rest)).is_ok(), ok, "a last label of {last}");
    }
}

/// What this own answer to a query is, byte for byte.
fn own(answer: OwnAnswer, query: &[u8]) -> Vec<u8> {
    let mut into = [0xee; OWN_ANSWER_MAX];
    let len = answer.write(query, &mut into);
    into[..len].to_vec()
}

/// An OPT record with these upper bits of the RCODE, flags and data.
fn opt_record(rcode_high: u8, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0, 41, 4, 0xd0, rcode_high, 0, flags, 0, 0, data.len() as u8];
    record.extend(data);
    record
}

#[test]
fn an_own_answer_has_the_question_and_says_why() {
    let mut query = QUERY.to_vec();
    // Status is opcode 2; AA, TC, RA, Z and AD are not valid in a query, but occur.
    query[2..4].copy_from_slice(&[0x17, 0xff]);
    let plain = b"\x12\x34\x91\x12\0\x01\0\0\0\0\0\x01\x07Example\x03com\0\0\x1c\0\x01";
    let opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\x15\0\x0f\0\x11\0\x17no server is up";
    assert_eq!(own(OwnAnswer::NoServer, &query), [&plain[..], opt].concat());
    let mut without = query[..29].to_vec();
    without[11] = 0;
    let mut expected = plain.to_vec();
    expected[11] = 0;
    assert_eq!(own(OwnAnswer::NoServer, &without), expected, "no EDNS, no OPT");
    query[2] |= QR;
    assert_eq!(own(OwnAnswer::NoServer, &query), b"", "an answer has no answer");
    assert_eq!(own(OwnAnswer::NoServer, &query[..11]), b"", "shorter than a header");
}

#[test]
fn a_truncated_answer_is_no_error_and_asks_for_tcp() {
    let answer = own(OwnAnswer::Truncated, QUERY);
    assert_eq!(answer[..29], [b"\x12\x34\x83\x10".as_slice(), &QUERY[4..29]].concat());
    assert_eq!(answer[29..], [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_own_answer_without_one_question_is_a_header_with_the_opt_record() {
    let cookie = b"\0\x0a\0\x0801234567";
    for questions in [0, 2] {
        let mut query = message([1, 0], questions, &QUERY[12..29].repeat(questions.into()));
        query[11] = 1;
        query.extend(opt_record(0, 0x80, cookie));
        let answer = own(OwnAnswer::NotOneQuestion, &query);
        assert_eq!(answer[..12], [0xab, 0xcd, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 1], "{questions} questions");
        let (opt, data) = opt(&answer).unwrap();
        assert_eq!(
            (opt, &data[..6]),
            (Opt { wants_dnssec: true, ..Opt::default() }, &b"\0\x0f\0\x26\0\0"[..])
        );
        assert!(!answer.windows(8).any(|bytes| bytes == b"01234567"), "the client's cookie");
    }
}

#[test]
fn an_opt_record_is_found_behind_compressed_records_only_where_it_belongs() {
    let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01";
    let question = &QUERY[12..29];
    let with = |counts: [u8; 3], rest: &[&[u8]]| {
        let mut message = message([0x81, 0x80], 1, &[question, &rest.concat()].concat());
        [message[7], message[9], message[11]] = counts;
        message
    };
    let badvers = opt_record(1, 0, b"");
    let found = with([1, 0, 2], &[record, record, &badvers]);
    assert_eq!((opt(&found).unwrap().0.rcode_high, extended_rcode(&found)), (1, 16));
    for (message, why) in [
        (with([1, 0, 1], &[record, record, &badvers]), "behind the records that are counted"),
        (with([0, 1, 0], &[&badvers]), "an authority"),
        (with([0, 1, 1], &[&badvers, record]), "an authority, beside another record"),
        (with([0, 0, 1], &[&badvers[..10]]), "truncated"),
        (with([0, 0, 1], &[&opt_record(1, 0, b"1234")[..12]]), "truncated data"),
        (with([0, 0, 1], &[b"\x01a", &badvers]), "not at the root"),
        (with([0, 0, 0], &[&badvers]), "not counted"),
    ] {
        assert_eq!((opt(&message), extended_rcode(&message)), (None, 0), "{why}");
    }
}

/// What becomes of a response to a query.
fn checked(query: &[u8], response: &[u8]) -> Result<(), DropReason> {
    Asked::of(query, &key()).unwrap().check(response, &key())
}

#[test]
fn an_error_may_leave_the_question_out_and_an_answer_may_not() {
    let question = &QUERY[12..29];
    let query = message([1, 0], 1, question);
    let bare = |rcode: u8| message([0x81, 0x80 | rcode], 0, b"");
    assert_eq!(checked(&query, &message([0x81, 0x80], 1, question)), Ok(()));
    for rcode in 1..16 {
        assert_eq!(checked(&query, &bare(rcode)), Ok(()), "RCODE {rcode}");
    }
    assert_eq!(checked(&query, &bare(0)), Err(DropReason::WrongQuestion));
    let mut badvers = [bare(0), opt_record(1, 0, b"")].concat();
    badvers[11] = 1;
    assert_eq!(checked(&query, &badvers), Ok(()), "the RCODE has upper bits");
    badvers[17] = 0;
    assert_eq!(checked(&query, &badvers), Err(DropReason::WrongQuestion));
    assert_eq!(checked(&query, &message([1, 1], 0, b"")), Err(DropReason::Malformed), "a query");
    assert_eq!(checked(&query, &bare(1)[..11]), Err(DropReason::Malformed), "short");
    assert_eq!(checked(&query, &message([0x81, 1], 1, b"\xc0\x0c\0\x01\0\x01")), Err(DropReason::Malformed));
    assert_eq!(checked(&query, &message([0x81, 1], 2, &question.repeat(2))), Err(DropReason::Malformed));
    assert_eq!(
        checked(&query, &message([0x81, 1], 1, b"\0\0\x01\0\x01")),
        Err(DropReason::WrongQuestion),
        "an error to another question"
    );
}

#[test]
fn a_query_without_a_question_is_answered_by_a_message_without_one() {
    let cookie = message([1, 0], 0, b"");
    assert_eq!(checked(&cookie, &message([0x81, 0], 0, b"")), Ok(()));
    assert_eq!(checked(&cookie, &message([0x81, 4], 0, b"")), Ok(()));
    assert_eq!(
        checked(&cookie, &message([0x81, 0], 1, &QUERY[12..29])),
        Err(DropReason::WrongQuestion),
        "an answer to a question that it did not ask"
    );
}

#[test]
fn the_response_to_an_update_may_leave_the_zone_out() {
    let update = message([5 << 3, 0], 1, &QUERY[12..29]);
    assert_eq!(checked(&update, &message([5 << 3 | QR, 0], 0, b"")), Ok(()));
    let notify = message([4 << 3, 0], 1, &QUERY[12..29]);
    assert_eq!(checked(&notify, &message([4 << 3 | QR, 0], 0, b"")), Err(DropReason::WrongQuestion));
}

#[test]
fn what_cannot_be_matched_has_a_name() {
    let asked = |query: &[u8]| Asked::of(query, &key()).map(|_| ());
    assert_eq!(asked(&message([1, 0], 2, &QUERY[12..29].repeat(2))), Err(Malformed::Question));
    assert_eq!(asked(&message([1, 0], 1, b"\xc0\x0c\0\x01\0\x01")), Err(Malformed::Question));
    assert_eq!(asked(&message([0x81, 0], 1, &QUERY[12..29])), Err(Malformed::Response));
    assert_eq!(asked(&QUERY[..11]), Err(Malformed::Short));
    assert_eq!(asked(&message([1, 0], 0, b"")), Ok(()));
}

#[test]
fn a_marked_query_is_a_query_with_the_mark_at_its_end() {
    let name = name_to_wire("a.test").unwrap();
    let mut query = [0; QUERY_MAX + MARK_RECORD_LEN];
    let plain = write_query(&mut query, 7, &name, 1);
    assert_eq!(mark(&query[..plain]), None);
    let len = append_mark(&mut query, plain, b"0123456789");
    assert_eq!((len, query[11]), (plain + MARK_RECORD_LEN, 1));
    assert_eq!(mark(&query[..len]), Some(b"0123456789"));
    assert_eq!(opt(&query[..len]).unwrap(), (Opt::default(), &b"\xfe\x1d\0\x0a0123456789"[..]));
    assert_eq!(mark(&query[..len - 1]), None, "cut short");
    assert_eq!(append_mark(&mut query[..len - 1], plain, b"0123456789"), 0, "no room");
}

#[test]
fn a_health_check_is_a_query_for_recursion() {
    let mut into = [0xff; QUERY_MAX];
    let len = write_query(&mut into, 0x0102, &name_to_wire("a.test").unwrap(), 1);
    assert_eq!(into[..len], b"\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01"[..]);
    assert_eq!(write_query(&mut into[..len - 1], 1, b"\x01a\x04test\0", 1), 0, "no room");
    assert_eq!(write_query(&mut into, 1, b"\x01a\x04test", 1), 0, "no end");
    assert_eq!(write_query(&mut into, 1, b"\0\0", 1), 0, "more than a name");
}

#[test]
fn names_are_written_as_configurations_write_them() {
    assert_eq!(name_to_wire("."), Ok(vec![0]));
    assert_eq!(name_to_wire("Example.com"), Ok(b"\x07Example\x03com\0".to_vec()));
    assert_eq!(name_to_wire("example.com."), name_to_wire("example.com"));
    assert!(name_to_wire(&"a".repeat(63)).is_ok());
    assert_eq!(name_to_wire(&["a"; 127].join(".")).unwrap().len(), NAME_MAX);
    for (text, error) in [
        ("", "is empty; write"),
        ("..", "label of the DNS name is empty"),
        (".com", "label of the DNS name is empty"),
        ("a..b", "label of the DNS name is empty"),
        ("exämple.com", "'ä' is not allowed"),
        ("a b", "' ' is not allowed"),
        ("a\\046b", "'\\\\' is not allowed"),
        (&"a".repeat(64), "a label has 64 bytes"),
        (&["a"; 128].join("."), "257 bytes in a message"),
    ] {
        let said = name_to_wire(text).unwrap_err();
        assert!(said.contains(error), "{text:?}: {said}");
    }
}

/// Labels, type and class of a valid question.
fn question() -> impl Strategy<Value = Vec<u8>> {
    (vec(vec(any::<u8>(), 1..20), 0..6), any::<[u8; 4]>()).prop_map(|(labels, end)| {
        let mut bytes = Vec::new();
        for label in labels {
            bytes.push(label.len() as u8);
            bytes.extend(label);
        }
        bytes.push(0);
        bytes.extend(end);
        bytes
    })
}

/// Short questions of few bytes, so that equal ones are common.
fn alike() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(b"aAbB@`[{\xc1\xe1".as_slice());
    (vec(vec(byte, 1..3), 0..3), 64..67u8, prop::sample::select(&[65u8, 97])).prop_map(
        |(labels, kind, class)| {
            let mut bytes: Vec<u8> =
                labels.into_iter().flat_map(|l| [vec![l.len() as u8], l].concat()).collect();
            bytes.extend([0, 0, kind, 0, class]);
            bytes
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_the_slow_parser_reads_them(
        mut message in vec(any::<u8>(), 0..600),
        plausible in any::<bool>(),
    ) {
        if plausible && message.len() > 6 {
            message[4..6].copy_from_slice(&[0, 1]);
            // Short labels, so that some names are complete.
            message.iter_mut().skip(12).for_each(|b| *b &= 0x47);
        }
        prop_assert_eq!(query(&message).ok().map(as_slow), slow(&message, false));
        prop_assert_eq!(response(&message).ok().map(as_slow), slow(&message, true));
        prop_assert!(opcode(&message) < 16);
        set_id(&mut message, 7);
        prop_assert!(message.len() < 2 || id(&message) == 7);
        let _ = mark(&message);
        let is_query = message.len() >= HEADER_LEN && message[2] & QR == 0;
        for answer in OwnAnswer::ALL {
            let written = own(answer, &message);
            prop_assert_eq!(written.is_empty(), !is_query);
            prop_assert_eq!(opt(&written).is_some(), is_query && opt(&message).is_some(), "{:?}", answer);
            prop_assert!(written.is_empty() || rcode(&written) == answer.rcode());
            // In the query's own size everything but the reason fits.
            let mut into = vec![0; message.len()];
            let short = answer.write(&message, &mut into);
            prop_assert_eq!(short == 0, written.is_empty());
            prop_assert_eq!(opt(&into[..short]).is_some(), opt(&written).is_some());
        }
        if let Ok(asked) = Asked::of(&message, &key()) {
            prop_assert!(is_query);
            let _ = asked.check(&message, &key());
        }
    }

    #[test]
    fn a_message_with_changed_bytes_is_refused_or_asks_what_the_slow_parser_says(
        question in question(),
        tail in vec(any::<u8>(), 0..40),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let first = message([1, 0], 1, &[question, tail].concat());
        let mut second = first.clone();
        for (at, byte) in changes {
            second[at.index(first.len())] = byte;
        }
        let before = query(&first).unwrap();
        prop_assert_eq!(as_slow(before), slow(&first, false).unwrap());
        match query(&second) {
            Err(_) => prop_assert_eq!(slow(&second, false), None),
            Ok(after) => {
                let same = slow(&second, false).unwrap() == slow(&first, false).unwrap();
                prop_assert_eq!(before == after, same);
                prop_assert_eq!(before.hash(&key()) == after.hash(&key()), same);
            }
        }
    }

    #[test]
    fn equal_questions_and_only_they_have_equal_hashes(a in alike(), b in alike()) {
        let (a, b) = (message([0, 0], 1, &a), message([0, 0], 1, &b));
        let same = slow(&a, false) == slow(&b, false);
        let (a, b) = (query(&a).unwrap(), query(&b).unwrap());
        prop_assert_eq!(a == b, same);
        prop_assert_eq!(a.hash(&key()) == b.hash(&key()), same);
    }

    #[test]
    fn case_never_changes_a_hash(question in question(), flips in vec(any::<bool>(), 256)) {
        let mut other = question.clone();
        let name = question.len() - 4;
        for (byte, flip) in other[..name].iter_mut().zip(flips) {
            if flip && byte.is_ascii_alphabetic() {
                *byte ^= 0x20;
            }
        }
        let (a, b) = (message([0, 0], 1, &question), message([0, 0], 1, &other));
        prop_assert_eq!(query(&a).unwrap().hash(&key()), query(&b).unwrap().hash(&key()));
    }

    #[test]
    fn a_written_query_reads_back_and_so_does_its_servfail(question in question(), id_in: u16, kind: u16) {
        let name = &question[..question.len() - 4];
        let mut into = [0; QUERY_MAX];
        let len = write_query(&mut into, id_in, name, kind);
        let written = into[..len].to_vec();
        prop_assert_eq!(id(&written), id_in);
        prop_assert_eq!(query(&written), Ok(Question { name, kind, class: 1 }));
        let servfail = own(OwnAnswer::NoServer, &written);
        prop_assert_eq!(response(&servfail), query(&written));
        prop_assert_eq!(Asked::of(&written, &key()).unwrap().check(&servfail, &key()), Ok(()));
    }

    #[test]
    fn names_round_trip_through_text(text in "[!-\\-/-\\[\\]-~]{1,63}(\\.[!-\\-/-\\[\\]-~]{1,63}){0,3}") {
        match name_to_wire(&text) {
            Ok(wire) => {
                let back = labels(&wire).join(&b'.');
                prop_assert_eq!(back, text.to_ascii_lowercase().into_bytes());
                prop_assert_eq!(name::len(&wire), Some(wire.len()));
            }
            Err(_) => prop_assert!(text.len() + 2 > NAME_MAX),
        }
    }

    #[test]
    fn no_text_panics(text: String) {
        if let Ok(wire) = name_to_wire(&text) {
            prop_assert_eq!(name::len(&wire), Some(wire.len()));
        }
    }
}

#[test]
fn the_rcode_is_the_low_half_of_the_second_flags() {
    let mut message = QUERY.to_vec();
    assert_eq!(rcode(&message), 0);
    message[3] = 0xa5;
    assert_eq!(rcode(&message), 5);
    assert_eq!(rcode(&[0, 0]), 0);
}
