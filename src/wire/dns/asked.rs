//! What is remembered of a query to recognise its response, for UDP and TCP alike.

use super::question::{self, QuestionKey};
use super::{Malformed, NOERROR, QDCOUNT, QR, edns, flags, opcode};
use crate::base::drop_reason::DropReason;

/// OPCODE of a dynamic update.
const UPDATE: u8 = 5;
/// The hash of no question. The question of a query has it once in 2^64.
const NOTHING: u64 = 0;

/// A query with one question or none (RFC 7873 section 5.4), as far as its response must match it.
///
/// Port, server and id are the caller's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    question: u64,
    /// The response to an update may leave the question out (RFC 2136 section 3.8).
    is_update: bool,
}

impl Asked {
    /// A query of any opcode. With more than one question the response cannot be foreseen, and RFC 9619
    /// forbids it: [`Malformed::Question`].
    pub fn of(query: &[u8], key: &QuestionKey) -> Result<Asked, Malformed> {
        if flags(query)? & QR != 0 {
            return Err(Malformed::Response);
        }
        let question = match query[QDCOUNT..QDCOUNT + 2] {
            [0, 0] => NOTHING,
            _ => question::parse(query)?.hash(key),
        };
        Ok(Asked { question, is_update: opcode(query) == UPDATE })
    }

    /// Whether this is the response; the error says why it is not.
    ///
    /// Servers leave the question out of some errors. An error without its question counts; an answer without
    /// its question does not, since it could be the answer to any question.
    pub fn check(&self, response: &[u8], key: &QuestionKey) -> Result<(), DropReason> {
        if flags(response).map_err(|_| DropReason::Malformed)? & QR == 0 {
            return Err(DropReason::Malformed);
        }
        let matches = match response[QDCOUNT..QDCOUNT + 2] {
            [0, 0] => {
                self.question == NOTHING
                    || self.is_update
                    || edns::extended_rcode(response) != u16::from(NOERROR)
            }
            _ => {
                let question = question::parse(response).map_err(|_| DropReason::Malformed)?;
                question.hash(key) == self.question
            }
        };
        if matches { Ok(()) } else { Err(DropReason::WrongQuestion) }
    }
}
