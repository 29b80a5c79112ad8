//! One wait for several back ends of a thread.
//!
//! Each back end on mio waits in an epoll instance of its own, which is a descriptor that another epoll
//! instance can watch (epoll(7)). It becomes readable when a wait of its back end would end, whatever the
//! cause: a datagram, an error, a waker.

use std::io;
use std::os::fd::RawFd;

use super::mmsg::Waiter;
use crate::base::batch::SocketId;
use crate::base::time::{Clock, Instant};

/// Waits for the back ends of one thread.
pub struct WaitSet {
    waiter: Waiter,
}

impl WaitSet {
    /// A set without back ends.
    ///
    /// # Errors
    /// Those of epoll_create(2), timerfd_create(2) and eventfd(2): too few descriptors.
    pub fn new() -> io::Result<WaitSet> {
        Ok(WaitSet { waiter: Waiter::new(&[])? })
    }

    /// Adds the descriptor of a back end under this number. News that it has already is reported. The
    /// descriptor must be open until it is removed.
    pub fn add(&self, number: u16, descriptor: RawFd) -> io::Result<()> {
        self.waiter.watch(SocketId(number), descriptor)
    }

    /// Removes the descriptor of a back end.
    pub fn remove(&self, descriptor: RawFd) -> io::Result<()> {
        self.waiter.forget(descriptor)
    }

    /// Waits until back ends have news, and calls `on_news` with their numbers; at most until `deadline`. A
    /// back end must then wait without sleeping, or its next news is not reported.
    pub fn wait(
        &mut self,
        clock: Clock,
        deadline: Option<Instant>,
        mut on_news: impl FnMut(u16),
    ) -> io::Result<()> {
        self.waiter.wait(clock, deadline, |ready| on_news(ready.socket.0))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::super::{DatagramIo, IoOptions, MmsgIo};
    use super::*;

    /// The numbers of the back ends that have news until the deadline.
    fn news(set: &mut WaitSet, deadline: Option<Instant>) -> Vec<u16> {
        let mut numbers = vec![];
        set.wait(Clock::start(), deadline, |number| numbers.push(number)).unwrap();
        numbers
    }

    #[test]
    fn it_reports_the_back_ends_that_have_news_and_each_news_once() {
        let clock = Clock::start();
        let options = IoOptions { slots: 2, slot_size: 2048, ..IoOptions::default() };
        let mut ios = [0, 1]
            .map(|_| MmsgIo::new(vec![UdpSocket::bind("127.0.0.1:0").unwrap()], &options, clock).unwrap());
        let mut set = WaitSet::new().unwrap();
        ios.iter().zip(7..).for_each(|(io, number)| set.add(number, io.descriptor()).unwrap());
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let soon = || Some(clock.now() + Duration::from_millis(1));
        let none: [u16; 0] = [];
        for round in 0..3 {
            for (io, number) in ios.iter_mut().zip(7..) {
                sender.send_to(b"x", io.local_addr(SocketId(0))).unwrap();
                assert_eq!(news(&mut set, None), [number], "round {round}");
                io.wait(Some(Instant::ZERO)).unwrap();
                io.receive().unwrap();
                assert_eq!(io.turn().0.len(), 1);
                io.flush().unwrap();
                assert!(!io.has_more());
            }
            assert_eq!(news(&mut set, soon()), none);
        }
        ios[1].waker().wake();
        assert_eq!(news(&mut set, None), [8], "a waker is news too");
        set.remove(ios[0].descriptor()).unwrap();
        sender.send_to(b"x", ios[0].local_addr(SocketId(0))).unwrap();
        assert_eq!(news(&mut set, soon()), none, "it is removed");
    }
}
