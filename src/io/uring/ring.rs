//! The two queues that are shared with the kernel: how they are made, and the one call that moves both.
//!
//! * Single issuer and deferred task run (Linux 6.0 and 6.1, commits 97bbdc06a444 and c0e0d6ba25f1): what has
//!   arrived is taken in only inside io_uring_enter(2) of the one thread that uses the ring, and never while
//!   Rust code runs. All memory safety of this back end rests on that.
//! * The ring starts disabled, so that it belongs to the thread that uses it first, not to the one that makes
//!   it.

#![allow(unsafe_code)] // system calls

use std::io;
use std::os::fd::RawFd;
use std::thread::ThreadId;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue};

thread_local! {
    static HERE: ThreadId = std::thread::current().id();
}

/// How long [`Ring::enter`] may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Hand over what was pushed, and take in nothing.
    Submit,
    /// Take in what is there. No system call if there is nothing.
    Look,
    /// Wait for a completion, this long at most; `None` is for ever.
    For(Option<Duration>),
}

/// An io_uring with registered files.
pub(super) struct Ring {
    io: IoUring,
    owner: Option<ThreadId>,
    /// The call has failed in a way that is not explained by load: nothing is known of what was pushed.
    is_broken: bool,
}

impl Ring {
    /// A ring over these descriptors, with room for so many submissions and completions.
    pub(super) fn new(files: &[RawFd], entries: usize, completions: usize) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(size(completions)?)
            .dontfork()
            .build(size(entries)?)
            .map_err(|error| explain(&error))?;
        let mut probe = Probe::new();
        io.submitter().register_probe(&mut probe).map_err(|error| explain(&error))?;
        let needed = [opcode::RecvMsgMulti::CODE, opcode::SendMsg::CODE, opcode::PollAdd::CODE];
        let has_features = io.params().is_feature_ext_arg() && io.params().is_feature_nodrop();
        if !has_features || needed.iter().any(|&code| !probe.is_supported(code)) {
            return Err(explain(&io::Error::from_raw_os_error(libc::EINVAL)));
        }
        io.submitter().register_files(files)?;
        Ok(Ring { io, owner: None, is_broken: false })
    }

    /// The ring itself, to register memory with.
    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.io.submitter()
    }

    /// Whether this thread may use the ring: the one that uses it first is the only one.
    pub(super) fn is_of_this_thread(&mut self) -> io::Result<bool> {
        let here = HERE.with(|&here| here);
        if self.owner.is_none() {
            self.io.submitter().register_enable_rings()?;
            self.owner = Some(here);
        }
        Ok(self.owner == Some(here))
    }

    /// Adds a submission; makes room first if there is none.
    ///
    /// # Safety
    ///
    /// What the entry points to must be valid until it has completed.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's promise is passed on.
            if unsafe { self.io.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.enter(Wait::Submit)?;
        }
    }

    /// io_uring_enter(2): hands over what was pushed, and waits. True if a signal has ended it. That time is
    /// over, that the kernel is short of memory or that completions have to be read first (ETIME, EAGAIN,
    /// EBUSY) is no error: the caller looks what has come, and calls again.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<bool> {
        if self.is_broken {
            return Err(io::Error::other("the io_uring has failed before"));
        }
        let queue = self.io.submission();
        let is_idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        let count = queue.len() as u32;
        drop(queue);
        let submitter = self.io.submitter();
        let result = match wait {
            Wait::Look if is_idle => return Ok(false),
            // SAFETY: no argument is passed; what was pushed is valid by the promise at `push`.
            Wait::Submit => unsafe { submitter.enter::<libc::sigset_t>(count, 0, 0, None) },
            // SAFETY: as above.
            Wait::Look => unsafe {
                submitter.enter::<libc::sigset_t>(count, 0, EnterFlags::GETEVENTS.bits(), None)
            },
            Wait::For(None) => submitter.submit_and_wait(1),
            Wait::For(Some(time)) => {
                let time = Timespec::from(time);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match result.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)) {
            Ok(_) | Err(libc::ETIME | libc::EAGAIN | libc::EBUSY) => Ok(false),
            Err(libc::EINTR) => Ok(true),
            Err(errno) => {
                self.is_broken = true;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    /// The completions that have come.
    pub(super) fn completions(&mut self) -> impl Iterator<Item = cqueue::Entry> + '_ {
        self.io.completion()
    }

    /// Whether the kernel keeps completions back because the queue was full.
    pub(super) fn has_overflowed(&mut self) -> bool {
        self.io.submission().cq_overflow()
    }

    /// Cancels what is under way and fits; the completions follow.
    pub(super) fn cancel(&mut self, what: CancelBuilder) -> io::Result<()> {
        let patience = Timespec::from(Duration::from_secs(1));
        match self.io.submitter().register_sync_cancel(Some(patience), what) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }
}

fn size(count: usize) -> io::Result<u32> {
    let message = "more slots or sockets than an io_uring takes";
    let size = u32::try_from(count).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, message))?;
    Ok(size.next_power_of_two())
}

/// Says why there is no io_uring, in words: the error numbers of io_uring_setup(2) are few and mean much.
fn explain(error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel was built without it, or a seccomp filter hides it",
        Some(libc::EPERM | libc::EACCES) => {
            "it is forbidden, by kernel.io_uring_disabled or by a seccomp filter as containers have them"
        }
        Some(libc::EINVAL) => "the kernel is too old: it takes Linux 6.1 or later",
        Some(libc::ENOMEM) => "not enough memory may be locked (RLIMIT_MEMLOCK)",
        Some(libc::EMFILE | libc::ENFILE) => "too many files are open",
        _ => "the kernel refuses it",
    };
    io::Error::new(error.kind(), format!("no io_uring: {why} ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_explained() {
        for (errno, word) in
            [(libc::ENOSYS, "built without"), (libc::EPERM, "seccomp"), (libc::EINVAL, "6.1")]
        {
            let text = explain(&io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.starts_with("no io_uring: ") && text.contains(word), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two_and_absurd_ones_are_refused() {
        assert_eq!(size(65).unwrap(), 128);
        assert!(size(1 << 40).is_err());
    }
}
