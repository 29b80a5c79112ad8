//! The side of the process that requests the sockets.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::channel::Channel;
use super::message::HandoverMessage;
use super::{Error, HandoverPurpose, SocketSet};
use crate::os::{limits, private_socket};

/// File descriptors of a process that takes over besides those that it receives.
const OTHER_FILES: usize = 256;

/// A conversation with the process that has the sockets. Each step has a time limit. After an error of
/// any step, the sockets belong to the other process, and this one must not read them.
pub struct Requester {
    channel: Channel,
}

impl Requester {
    /// Sends a request to the process that listens at this path ([`Listener`](super::Listener)).
    pub fn connect(path: &Path, purpose: HandoverPurpose, patience: Duration) -> Result<Requester, Error> {
        let stream = private_socket::connect(path, patience).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NoListener(path.into()),
            io::ErrorKind::WouldBlock => Error::Deaf,
            _ => Error::File { path: path.into(), source: error },
        })?;
        Requester::over(stream, purpose, patience)
    }

    /// Sends a request over this stream.
    pub fn over(
        stream: UnixStream,
        purpose: HandoverPurpose,
        patience: Duration,
    ) -> Result<Requester, Error> {
        let mut channel = Channel::over(stream)?;
        channel.send(&HandoverMessage::Hello(purpose), patience)?;
        Ok(Requester { channel })
    }

    /// Receives the sockets that a parent sends without a request
    /// ([`Holder::push`](super::Holder::push)).
    pub fn pushed(stream: UnixStream, patience: Duration) -> Result<SocketSet, Error> {
        receive_sockets(&mut Channel::over(stream)?, patience)
    }

    /// Id of the process that has the sockets.
    pub fn pid(&self) -> u32 {
        self.channel.peer_pid()
    }

    /// Receives the sockets.
    pub fn sockets(&mut self, patience: Duration) -> Result<SocketSet, Error> {
        receive_sockets(&mut self.channel, patience)
    }

    /// Names the pools whose server-side sockets this process will read too. Before [`Requester::ready`].
    pub fn continues(&mut self, pools: Vec<String>, patience: Duration) -> Result<(), Error> {
        match pools.is_empty() {
            true => Ok(()),
            false => self.channel.send(&HandoverMessage::Continues(pools), patience),
        }
    }

    /// Reports that everything without the state is prepared, and receives the state. The other process
    /// is paused from now on.
    pub fn ready(&mut self, patience: Duration) -> Result<Vec<u8>, Error> {
        self.channel.send(&HandoverMessage::Ready, patience)?;
        self.state(patience)
    }

    /// Receives more of the other process's state, after the end of the conversation.
    pub fn state(&mut self, patience: Duration) -> Result<Vec<u8>, Error> {
        match self.channel.receive("its state", patience)? {
            HandoverMessage::State(state) => Ok(state),
            other => Err(Error::Unexpected { wanted: "its state", got: other.name() }),
        }
    }

    /// Ends the conversation with a reason; the other process keeps serving and reports the reason.
    pub fn refuse(&mut self, why: &str, patience: Duration) -> Result<(), Error> {
        self.channel.send(&HandoverMessage::Refused(why.into()), patience)
    }

    /// Reports that this process can start. After `Ok`, the sockets belong to this process, and it
    /// starts to read.
    pub fn running(&mut self, patience: Duration) -> Result<(), Error> {
        self.channel.send(&HandoverMessage::Running, patience)?;
        self.channel.expect(&HandoverMessage::Yours, patience)
    }
}

fn receive_sockets(channel: &mut Channel, patience: Duration) -> Result<SocketSet, Error> {
    let labels = match channel.receive("its sockets", patience)? {
        HandoverMessage::Sockets(labels) => labels,
        other => return Err(Error::Unexpected { wanted: "its sockets", got: other.name() }),
    };
    // Without enough of them the step below fails, with the numbers.
    let _ = limits::allow_files((labels.len() + OTHER_FILES) as u64, "pools[].ports");
    let descriptors = channel.receive_descriptors(labels.len(), patience)?;
    Ok(labels.into_iter().zip(descriptors).collect())
}
