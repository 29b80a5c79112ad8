//! The side of the process that has the sockets.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::channel::Channel;
use super::message::HandoverMessage;
use super::{Error, HandoverPurpose, Label};

/// A conversation with a process that requests sockets. Each step has a time limit. After an error of
/// any step, the sockets still belong to this process: it resumes what it has paused and continues.
pub struct Holder {
    channel: Channel,
    purpose: HandoverPurpose,
}

impl Holder {
    /// Sends sockets to a child that sends nothing. It does not wait while the buffer of the stream has
    /// space: for about 2,000 sockets.
    pub fn push(
        stream: UnixStream,
        sockets: &[(Label, BorrowedFd<'_>)],
        patience: Duration,
    ) -> Result<(), Error> {
        give(&mut Channel::over(stream)?, sockets, patience)
    }

    /// Receives the request of a process.
    pub fn accept(stream: UnixStream, patience: Duration) -> Result<Holder, Error> {
        let mut channel = Channel::over(stream)?;
        match channel.receive("its greeting", patience)? {
            HandoverMessage::Hello(purpose) => Ok(Holder { channel, purpose }),
            other => Err(Error::Unexpected { wanted: "its greeting", got: other.name() }),
        }
    }

    /// Purpose of the request.
    pub fn purpose(&self) -> HandoverPurpose {
        self.purpose
    }

    /// Id of the requesting process.
    pub fn pid(&self) -> u32 {
        self.channel.peer_pid()
    }

    /// Ends the conversation with a reason.
    pub fn refuse(&mut self, why: &str, patience: Duration) -> Result<(), Error> {
        self.channel.send(&HandoverMessage::Refused(why.into()), patience)
    }

    /// Sends duplicates of the sockets. A conversation about a copy ends with this step.
    pub fn give(&mut self, sockets: &[(Label, BorrowedFd<'_>)], patience: Duration) -> Result<(), Error> {
        give(&mut self.channel, sockets, patience)
    }

    /// Waits until the other process has prepared everything that does not need the state. This process
    /// serves until then, and pauses after it. Returns the pools whose server-side sockets the other process
    /// will read too, by name.
    pub fn wait_until_ready(&mut self, patience: Duration) -> Result<Vec<String>, Error> {
        let wanted = HandoverMessage::Ready.name();
        match self.channel.receive(wanted, patience)? {
            HandoverMessage::Ready => Ok(vec![]),
            HandoverMessage::Continues(pools) => {
                self.channel.expect(&HandoverMessage::Ready, patience)?;
                Ok(pools)
            }
            other => Err(Error::Unexpected { wanted, got: other.name() }),
        }
    }

    /// Sends this process's state; after the end of the conversation, what it has counted since.
    pub fn give_state(&mut self, state: Vec<u8>, patience: Duration) -> Result<(), Error> {
        self.channel.send(&HandoverMessage::State(state), patience)
    }

    /// Waits until the other process can start, and lets it. Afterwards the sockets belong to the other
    /// process, and this one must never read them again.
    pub fn conclude(&mut self, patience: Duration) -> Result<(), Error> {
        self.channel.expect(&HandoverMessage::Running, patience)?;
        self.channel.send(&HandoverMessage::Yours, patience)
    }
}

fn give(channel: &mut Channel, sockets: &[(Label, BorrowedFd<'_>)], patience: Duration) -> Result<(), Error> {
    let (labels, descriptors): (Vec<Label>, Vec<BorrowedFd<'_>>) = sockets.iter().cloned().unzip();
    channel.send(&HandoverMessage::Sockets(labels), patience)?;
    channel.send_descriptors(&descriptors, patience)
}
