//! The meaning of a completion, encoded in the 64 bits of user_data: a tag and a small number. Pure.

use crate::base::batch::SocketId;

/// An operation of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Receiving on a socket.
    Receive(SocketId),
    /// Sending the message with this number within its call.
    Send(u16),
    /// Watching the error queue of a socket.
    Errors(SocketId),
    /// Watching the waker.
    Waker,
    /// The timer.
    Timer,
}

const RECEIVE: u64 = 1 << 16;
const SEND: u64 = 2 << 16;
const WAKER: u64 = 3 << 16;
const TIMER: u64 = 4 << 16;
const ERRORS: u64 = 5 << 16;

impl Token {
    pub(super) fn encode(self) -> u64 {
        match self {
            Token::Receive(socket) => RECEIVE | u64::from(socket.0),
            Token::Send(number) => SEND | u64::from(number),
            Token::Errors(socket) => ERRORS | u64::from(socket.0),
            Token::Waker => WAKER,
            Token::Timer => TIMER,
        }
    }

    /// `None` for an operation that this back end never starts.
    pub(super) fn decode(user_data: u64) -> Option<Token> {
        let number = user_data as u16;
        match user_data & !0xffff {
            RECEIVE => Some(Token::Receive(SocketId(number))),
            SEND => Some(Token::Send(number)),
            ERRORS => Some(Token::Errors(SocketId(number))),
            WAKER => Some(Token::Waker),
            TIMER => Some(Token::Timer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip() {
        for number in [0, 1, 63, 0x1234, u16::MAX] {
            let socket = SocketId(number);
            let with_number = [Token::Receive(socket), Token::Send(number), Token::Errors(socket)];
            for token in with_number.into_iter().chain([Token::Waker, Token::Timer]) {
                assert_eq!(Token::decode(token.encode()), Some(token));
            }
        }
        assert_eq!(Token::decode(0), None);
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
