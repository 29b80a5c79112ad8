//! Messages and descriptors over a connected stream, with bounded waits and sizes.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::Error;
use super::message::{HandoverMessage, PREFACE_LEN, check_preface, preface};
use crate::base::time::{Clock, Instant};
use crate::os::private_socket;

/// Maximum size of a message, in bytes.
pub const MESSAGE_MAX: usize = 64 << 20;

/// Maximum descriptors per call: SCM_MAX_FD of the kernel (include/net/scm.h).
const BATCH_MAX: usize = 253;

/// Step of memory allocation for a message, in bytes. Memory grows as bytes arrive, so a false length
/// costs nothing.
const STEP: usize = 64 << 10;

/// One end of a conversation.
pub(super) struct Channel {
    stream: UnixStream,
    clock: Clock,
    has_written: bool,
    has_read: bool,
    peer_pid: u32,
}

impl Channel {
    /// A channel over a connected stream; the peer must belong to the same user or to root.
    pub(super) fn over(stream: UnixStream) -> Result<Channel, Error> {
        stream.set_nonblocking(false)?;
        let peer_pid = private_socket::check_peer(&stream)?;
        Ok(Channel { stream, clock: Clock::start(), has_written: false, has_read: false, peer_pid })
    }

    /// Process id of the peer.
    pub(super) fn peer_pid(&self) -> u32 {
        self.peer_pid
    }

    /// Sends a message within this time.
    pub(super) fn send(&mut self, message: &HandoverMessage, patience: Duration) -> Result<(), Error> {
        let until = self.clock.now() + patience;
        let body = message.encode()?;
        if body.len() > MESSAGE_MAX {
            return Err(Error::TooLong(body.len()));
        }
        self.write_preface(until)?;
        self.write(&(body.len() as u32).to_le_bytes(), until)?;
        self.write(&body, until)
    }

    /// Receives a message within this time. A refusal is an error.
    pub(super) fn receive(
        &mut self,
        wanted: &'static str,
        patience: Duration,
    ) -> Result<HandoverMessage, Error> {
        let until = self.clock.now() + patience;
        self.read_preface(wanted, until)?;
        let mut length = [0; 4];
        self.read(&mut length, wanted, until)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MESSAGE_MAX {
            return Err(Error::TooLong(length));
        }
        let mut body = Vec::new();
        while body.len() < length {
            let at = body.len();
            body.resize(length.min(at + STEP), 0);
            self.read(&mut body[at..], wanted, until)?;
        }
        match HandoverMessage::decode(&body)? {
            HandoverMessage::Refused(why) => Err(Error::Refused(why)),
            message => Ok(message),
        }
    }

    /// Receives a message that must equal `message`.
    pub(super) fn expect(&mut self, message: &HandoverMessage, patience: Duration) -> Result<(), Error> {
        let wanted = message.name();
        let got = self.receive(wanted, patience)?;
        if got == *message { Ok(()) } else { Err(Error::Unexpected { wanted, got: got.name() }) }
    }

    /// Sends duplicates of these descriptors; an earlier message contained their number.
    pub(super) fn send_descriptors(
        &mut self,
        all: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<(), Error> {
        let until = self.clock.now() + patience;
        for batch in all.chunks(BATCH_MAX) {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(batch)), "the space is for a whole batch");
            let count = [batch.len() as u8];
            self.stream.set_write_timeout(Some(self.left(until).ok_or(Error::Deaf)?))?;
            loop {
                match sendmsg(&self.stream, &[IoSlice::new(&count)], &mut control, SendFlags::NOSIGNAL) {
                    Ok(_) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(ended(error.into(), Error::Deaf)),
                }
            }
        }
        Ok(())
    }

    /// Receives this many descriptors. They are closed when this process executes another program.
    pub(super) fn receive_descriptors(
        &mut self,
        count: usize,
        patience: Duration,
    ) -> Result<Vec<OwnedFd>, Error> {
        let until = self.clock.now() + patience;
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut said = [0];
            let stalled = || Error::Stalled("its descriptors");
            self.stream.set_read_timeout(Some(self.left(until).ok_or_else(stalled)?))?;
            let vectors = &mut [IoSliceMut::new(&mut said)];
            let message = match recvmsg(&self.stream, vectors, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => message,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(ended(error.into(), stalled())),
            };
            if message.bytes == 0 {
                return Err(Error::Gone);
            }
            let before = all.len();
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                    all.extend(descriptors);
                }
            }
            // Fewer arrive if this process may not have more (MSG_CTRUNC).
            let (expected, got) = (usize::from(said[0]), all.len() - before);
            if got != expected || got == 0 {
                return Err(Error::Descriptors { expected, got });
            }
        }
        if all.len() > count {
            return Err(Error::Garbled);
        }
        Ok(all)
    }

    fn write_preface(&mut self, until: Instant) -> Result<(), Error> {
        if std::mem::replace(&mut self.has_written, true) {
            return Ok(());
        }
        self.write(&preface(), until)
    }

    fn read_preface(&mut self, wanted: &'static str, until: Instant) -> Result<(), Error> {
        if std::mem::replace(&mut self.has_read, true) {
            return Ok(());
        }
        let mut bytes = [0; PREFACE_LEN];
        self.read(&mut bytes, wanted, until)?;
        check_preface(&bytes).inspect_err(|error| {
            if matches!(error, Error::Version(_)) {
                let _ = self.write_preface(until); // so that the peer can report the reason too
            }
        })
    }

    fn read(&self, buffer: &mut [u8], wanted: &'static str, until: Instant) -> Result<(), Error> {
        let mut at = 0;
        while at < buffer.len() {
            let stalled = || Error::Stalled(wanted);
            self.stream.set_read_timeout(Some(self.left(until).ok_or_else(stalled)?))?;
            match (&self.stream).read(&mut buffer[at..]) {
                Ok(0) => return Err(Error::Gone),
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ended(error, stalled())),
            }
        }
        Ok(())
    }

    fn write(&self, mut bytes: &[u8], until: Instant) -> Result<(), Error> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(self.left(until).ok_or(Error::Deaf)?))?;
            match (&self.stream).write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ended(error, Error::Deaf)),
            }
        }
        Ok(())
    }

    /// Time left until `until`; `None` if it has passed.
    fn left(&self, until: Instant) -> Option<Duration> {
        Some(until.since(self.clock.now())).filter(|left| *left >= Duration::from_micros(1))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Maps an error of a call with a timeout.
fn ended(error: io::Error, timed_out: Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => timed_out,
        _ => Error::of_stream(error),
    }
}
