//! The side of who has the sockets.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::channel::Channel;
use super::message::Message;
use super::{Error, Label, Purpose};

/// A conversation with a process that wants sockets. Each step waits so long at most. After an error of any
/// step the sockets are still this process's: it goes on as before, resuming what it has paused.
pub struct Holder {
    channel: Channel,
    purpose: Purpose,
}

impl Holder {
    /// Gives sockets to a child that has not said anything and will not answer. Nothing is waited for as long as the buffer of
    /// the stream takes it: some 2,000 sockets.
    pub fn push(
        stream: UnixStream,
        sockets: &[(Label, BorrowedFd<'_>)],
        patience: Duration,
    ) -> Result<(), Error> {
        give(&mut Channel::over(stream)?, sockets, patience)
    }

    /// Hears what a process wants.
    pub fn accept(stream: UnixStream, patience: Duration) -> Result<Holder, Error> {
        let mut channel = Channel::over(stream)?;
        match channel.receive("its greeting", patience)? {
            Message::Hello(purpose) => Ok(Holder { channel, purpose }),
            other => Err(Error::Unexpected { wanted: "its greeting", got: other.name() }),
        }
    }

    /// What the sockets are wanted for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The process that wants them.
    pub fn pid(&self) -> u32 {
        self.channel.peer_pid()
    }

    /// Ends the conversation with a reason.
    pub fn refuse(mut self, why: &str, patience: Duration) -> Result<(), Error> {
        self.channel.send(&Message::Refused(why.into()), patience)
    }

    /// Gives duplicates of the sockets. A conversation about a copy ends with this.
    pub fn give(&mut self, sockets: &[(Label, BorrowedFd<'_>)], patience: Duration) -> Result<(), Error> {
        give(&mut self.channel, sockets, patience)
    }

    /// Waits until the other process has made all that it can without the state. Until then this one serves; then it
    /// pauses.
    pub fn wait_until_ready(&mut self, patience: Duration) -> Result<(), Error> {
        self.channel.expect(&Message::Ready, patience)
    }

    /// Says what this process knows.
    pub fn give_state(&mut self, state: Vec<u8>, patience: Duration) -> Result<(), Error> {
        self.channel.send(&Message::State(state), patience)
    }

    /// Waits until the other process could start, and lets it. After this the sockets are its: this one must
    /// never read them again.
    pub fn conclude(mut self, patience: Duration) -> Result<(), Error> {
        self.channel.expect(&Message::Running, patience)?;
        self.channel.send(&Message::Yours, patience)
    }
}

fn give(channel: &mut Channel, sockets: &[(Label, BorrowedFd<'_>)], patience: Duration) -> Result<(), Error> {
    let (labels, descriptors): (Vec<Label>, Vec<BorrowedFd<'_>>) = sockets.iter().cloned().unzip();
    channel.send(&Message::Sockets(labels), patience)?;
    channel.send_descriptors(&descriptors, patience)
}
