//! A DNS query of a stranger: question, OPT record, mark of a health check, and lbd's own answers.
#![no_main]

use std::sync::LazyLock;

use lbd::wire::dns::{
    self, Asked, HEADER_LEN, MARK_RECORD_LEN, NAME_MAX, OWN_ANSWER_MAX, OwnAnswer, QuestionKey,
};
use libfuzzer_sys::fuzz_target;

/// What an own answer may add to a query, in bytes: the reason of the error (SECURITY.md).
const REASON_MAX: usize = 50;

static KEY: LazyLock<QuestionKey> = LazyLock::new(|| QuestionKey::new([7; 16]));

fuzz_target!(|query: &[u8]| {
    let question = dns::query(query);
    let asked = Asked::of(query, &KEY);
    let is_query = query.len() >= HEADER_LEN && query[2] & 0x80 == 0;
    match &question {
        Ok(question) => {
            assert!(question.name.len() <= NAME_MAX && HEADER_LEN + question.wire_len() <= query.len());
            assert!(is_query && asked.is_ok() && dns::question_count(query) == 1);
        }
        Err(_) => assert!(asked.is_err() || dns::question_count(query) == 0),
    }
    assert!(dns::opcode(query) < 16 && dns::rcode(query) < 16 && dns::extended_rcode(query) < 4_096);
    let has_opt = dns::opt(query).is_some();

    // One own answer for each input, so that an input is cheap.
    let sum: usize = query.iter().map(|&byte| usize::from(byte)).sum();
    let own = OwnAnswer::ALL[sum % OwnAnswer::ALL.len()];
    let mut answer = [0; OWN_ANSWER_MAX];
    let len = own.write(query, &mut answer);
    if !is_query {
        assert_eq!(len, 0, "a response, or what is too short, has no answer");
        return;
    }
    let answer = &answer[..len];
    assert!(len <= query.len() + REASON_MAX, "no amplifier");
    assert_eq!((dns::id(answer), dns::rcode(answer)), (dns::id(query), own.rcode()));
    assert_eq!((dns::opcode(answer), answer[2] & 0x80), (dns::opcode(query), 0x80));
    assert_eq!(dns::opt(answer).is_some(), has_opt);
    match &question {
        Ok(question) => assert_eq!(dns::response(answer).as_ref(), Ok(question)),
        Err(_) => assert_eq!(dns::question_count(answer), 0),
    }
    if let (Ok(asked), true) = (&asked, question.is_ok() || own.rcode() != dns::NOERROR) {
        assert_eq!(asked.check(answer, &KEY), Ok(()), "the client accepts it");
    }
    let mut small = [0; OWN_ANSWER_MAX];
    let room = query.len().min(OWN_ANSWER_MAX);
    let len = own.write(query, &mut small[..room]);
    assert!((HEADER_LEN..=room).contains(&len), "without its reason it fits into the query's room");

    if let Ok(question) = &question {
        let len = HEADER_LEN + question.wire_len();
        let mut marked = [0; dns::QUERY_MAX + MARK_RECORD_LEN];
        let written = dns::write_query(&mut marked, dns::id(query), question.name, question.kind);
        assert_eq!(written, len);
        assert_eq!(dns::append_mark(&mut marked, len, &[9; 10]), len + MARK_RECORD_LEN);
        let marked = &marked[..len + MARK_RECORD_LEN];
        assert_eq!(dns::mark(marked), Some(&[9; 10]));
        assert!(dns::query(marked).is_ok() && dns::opt(marked).is_some());
    }
});
