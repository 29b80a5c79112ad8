//! The meaning of a completion, encoded in the 64 bits of user_data: a tag and a small number. Pure.

use crate::base::batch::SocketId;

/// An operation of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
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

impl Operation {
    pub(super) fn encode(self) -> u64 {
        match self {
            Operation::Receive(socket) => RECEIVE | u64::from(socket.0),
            Operation::Send(number) => SEND | u64::from(number),
            Operation::Errors(socket) => ERRORS | u64::from(socket.0),
            Operation::Waker => WAKER,
            Operation::Timer => TIMER,
        }
    }

    /// `None` for an operation that this back end never starts.
    pub(super) fn decode(user_data: u64) -> Option<Operation> {
        let number = user_data as u16;
        match user_data & !0xffff {
            RECEIVE => Some(Operation::Receive(SocketId(number))),
            SEND => Some(Operation::Send(number)),
            ERRORS => Some(Operation::Errors(SocketId(number))),
            WAKER => Some(Operation::Waker),
            TIMER => Some(Operation::Timer),
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
            let with_number =
                [Operation::Receive(socket), Operation::Send(number), Operation::Errors(socket)];
            for token in with_number.into_iter().chain([Operation::Waker, Operation::Timer]) {
                assert_eq!(Operation::decode(token.encode()), Some(token));
            }
        }
        assert_eq!(Operation::decode(0), None);
        assert_eq!(Operation::decode(u64::MAX), None);
    }
}
