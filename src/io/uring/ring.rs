//! The two queues shared with the kernel: their creation, and the one call that moves both.
//!
//! * Single issuer and deferred task run (Linux 6.0 and 6.1, commits 97bbdc06a444 and c0e0d6ba25f1):
//!   arrivals are processed only inside io_uring_enter(2) of the one thread that uses the ring, and
//!   never while Rust code runs. All memory safety of this back end relies on that.
//! * The ring starts disabled, so that it belongs to the thread that first uses it, not to its creator.

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

/// How long [`Ring::enter`] may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Submit entries, and process no completions.
    Submit,
    /// Process available completions. No system call if there are none.
    Look,
    /// Wait for a completion, at most this long; `None`: without limit.
    For(Option<Duration>),
}

/// An io_uring with registered files.
pub(super) struct Ring {
    io: IoUring,
    owner: Option<ThreadId>,
    /// Whether the call has failed for a reason other than load: the state of submitted entries is unknown.
    is_broken: bool,
}

impl Ring {
    /// A ring over these descriptors, with this many submissions and completions.
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

    /// The ring itself, to register memory.
    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.io.submitter()
    }

    /// Whether this thread may use the ring: only the first one to use it may.
    pub(super) fn is_of_this_thread(&mut self) -> io::Result<bool> {
        let here = HERE.with(|&here| here);
        if self.owner.is_none() {
            self.io.submitter().register_enable_rings()?;
            self.owner = Some(here);
        }
        Ok(self.owner == Some(here))
    }

    /// Adds a submission; submits earlier ones first if the queue is full.
    ///
    /// # Safety
    ///
    /// Everything the entry points to must be valid until it has completed.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller guarantees it.
            if unsafe { self.io.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.enter(Wait::Submit)?;
        }
    }

    /// io_uring_enter(2): submits entries, and waits. True if a signal has ended the wait. A timeout, a
    /// shortage of kernel memory, or completions that have to be read first (ETIME, EAGAIN, EBUSY) are
    /// no errors: the caller processes the completions and calls again.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<bool> {
        if self.is_broken {
            return Err(io::Error::other("the io_uring has failed earlier"));
        }
        let queue = self.io.submission();
        let is_idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        let count = queue.len() as u32;
        drop(queue);
        let submitter = self.io.submitter();
        let result = match wait {
            Wait::Look if is_idle => return Ok(false),
            // SAFETY: no argument is passed; the contract of `push` keeps the entries valid.
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

    /// The available completions.
    pub(super) fn completions(&mut self) -> impl Iterator<Item = cqueue::Entry> + '_ {
        self.io.completion()
    }

    /// Whether the kernel holds completions back because the queue was full.
    pub(super) fn has_overflowed(&mut self) -> bool {
        self.io.submission().cq_overflow()
    }

    /// Cancels matching operations; their completions follow.
    pub(super) fn cancel(&mut self, what: CancelBuilder) -> io::Result<()> {
        let patience = Timespec::from(Duration::from_secs(1));
        match self.io.submitter().register_sync_cancel(Some(patience), what) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }
}

fn size(count: usize) -> io::Result<u32> {
    let message = "too many slots or sockets for an io_uring";
    let size = u32::try_from(count).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, message))?;
    Ok(size.next_power_of_two())
}

/// Explains why there is no io_uring: the error numbers of io_uring_setup(2) are few and ambiguous.
fn explain(error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel was built without it, or a seccomp filter hides it",
        Some(libc::EPERM | libc::EACCES) => {
            "kernel.io_uring_disabled or a seccomp filter, as in containers, forbids it"
        }
        Some(libc::EINVAL) => "the kernel is too old; Linux 6.1 or later is needed",
        Some(libc::ENOMEM) => "the limit of locked memory is too low (RLIMIT_MEMLOCK)",
        Some(libc::EMFILE | libc::ENFILE) => "too many files are open",
        _ => "the kernel rejects it",
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
