//! Taking over from a running balancer, and handing over to a successor. The successor receives the sockets
//! first, while the predecessor keeps serving. Then, in one short pause, the successor receives the state of
//! all pools. Then the successor serves, and the predecessor finishes its own requests in flight.
//!
//! The pause loses nothing: datagrams that arrive stay in the sockets' buffers, and both processes have the
//! same sockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::paused::PausedWorkers;
use super::state::PoolState;
use super::{Failed, Instance};
use crate::admin::status::EventKind;
use crate::base::seldom::Seldom;
use crate::config::Config;
use crate::daemon::handover::{HandoverPurpose, Holder, Label, Listener, Requester, SocketKind, SocketSet};

/// Maximum time of a step for which both sides are ready.
const STEP: Duration = Duration::from_secs(5);
/// Maximum time for a successor to prepare everything.
const START: Duration = Duration::from_secs(60);
/// Interval at which the listener checks whether the process ends.
const CHECK: Duration = Duration::from_millis(100);

/// The state of all pools, by name.
type State = Vec<(String, PoolState)>;

/// The version of a [`State`]'s bytes. Every release that changes any value in them, down to the health of a
/// server, must raise the version: values are identified by their positions. Version 1 had neither mark nor
/// version.
const STATE_VERSION: u32 = 4;

/// The first bytes of a state, before its version. Those of version 1 began with a byte 0 or 1.
const STATE_MARK: [u8; 8] = *b"lbdstate";

/// The bytes of a state: mark, version (little-endian), values.
fn encode(state: &State) -> Result<Vec<u8>, Failed> {
    let head = [&STATE_MARK[..], &STATE_VERSION.to_le_bytes()].concat();
    postcard::to_extend(state, head).map_err(Failed::new)
}

/// The state in these bytes, if this version wrote them.
fn decode(bytes: &[u8]) -> Result<State, Failed> {
    let values =
        bytes.strip_prefix(&STATE_MARK).and_then(|rest| rest.strip_prefix(&STATE_VERSION.to_le_bytes()));
    let Some(values) = values else {
        let why =
            "cannot take over: the running balancer uses another state version; restart without --takeover";
        return Err(Failed::new(why));
    };
    match postcard::take_from_bytes(values) {
        Ok((state, [])) => Ok(state),
        _ => Err(Failed::new(
            "cannot take over: the state of the running balancer is damaged; restart without --takeover",
        )),
    }
}

/// The Unix socket of the balancer of this configuration, for its successors.
pub fn path(config: &Config) -> PathBuf {
    let addr = config.pools[0].listen()[0];
    config.state_dir.join(format!("balancer-{addr}.sock"))
}

/// A conversation with the balancer that is about to hand over.
pub struct Takeover {
    requester: Requester,
}

impl Takeover {
    /// Connects to the balancer that listens at this path; returns its sockets too.
    pub fn begin(path: &Path) -> Result<(Takeover, SocketSet), Failed> {
        let mut requester = Requester::connect(path, HandoverPurpose::Takeover, STEP).map_err(Failed::new)?;
        let sockets = requester.sockets(STEP).map_err(Failed::new)?;
        Ok((Takeover { requester }, sockets))
    }

    /// The process id of the predecessor.
    pub fn predecessor(&self) -> u32 {
        self.requester.pid()
    }

    /// Makes the predecessor pause after everything is prepared, and passes its state to `restore`. If
    /// `restore` accepts all of it, this process reads the sockets from now on. If not, the predecessor
    /// receives the reason and keeps serving.
    pub(super) fn conclude(
        mut self,
        restore: impl FnOnce(State) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let bytes = self.requester.ready(STEP).map_err(Failed::new)?;
        if let Err(failed) = decode(&bytes).and_then(restore) {
            let _ = self.requester.refuse(&failed.to_string(), STEP); // it may have ended
            return Err(failed);
        }
        self.requester.running(STEP).map_err(Failed::new)
    }
}

impl Instance {
    /// Serves processes that request the sockets at this path, until the process ends.
    pub fn listen_for_successors(self: &Arc<Self>, listener: Listener) -> std::io::Result<()> {
        let instance = Arc::clone(self);
        let thread = std::thread::Builder::new().name("handover".into()).spawn(move || {
            let mut failed = Seldom::default();
            while !instance.process.stop.is_asked() {
                let stream = match listener.accept(CHECK) {
                    Ok(Some(stream)) => stream,
                    Ok(None) => continue,
                    Err(error) => {
                        // Too many open files, for example: that passes.
                        if failed.is_due(instance.process.clock.now()) {
                            let (error, effect) = (error.to_string(), "no process can take over now");
                            tracing::error!(error, effect, "handover connection not accepted");
                        }
                        std::thread::sleep(CHECK);
                        continue;
                    }
                };
                match instance.hand_over(stream) {
                    Ok(None) => {}
                    Ok(Some(successor)) => {
                        tracing::info!(pid = successor, "handed over");
                        let text = format_args!("balancer: handed over to process {successor}");
                        return crate::os::terminal::tell(text);
                    }
                    Err(failed) => {
                        let text = format!("handover failed, still serving: {failed}");
                        tracing::error!(error = failed.to_string(), "handover failed, still serving");
                        instance.process.events.note(EventKind::Notice, "", None, text);
                    }
                }
            }
        })?;
        *self.successors.lock().expect("no panic while it is held") = Some(thread);
        Ok(())
    }

    /// One conversation. Returns the process that has taken over, if one has.
    fn hand_over(&self, stream: std::os::unix::net::UnixStream) -> Result<Option<u32>, Failed> {
        let mut holder = Holder::accept(stream, STEP).map_err(Failed::new)?;
        // No reload during the conversation. The process must not end while the old workers end and no new
        // ones start.
        let _one_at_a_time = self.reloading.lock().expect("no panic while it is held");
        let sockets = self.sockets()?;
        holder.give(&sockets.borrowed(), STEP).map_err(Failed::new)?;
        if holder.purpose() == HandoverPurpose::Copy {
            return Ok(None);
        }
        holder.wait_until_ready(START).map_err(Failed::new)?;
        let successor = holder.pid();
        let mut paused = PausedWorkers::default();
        let give_state = || {
            let state = encode(&self.pause(&mut paused)?)?;
            holder.give_state(state, STEP).map_err(Failed::new)?;
            holder.conclude(STEP).map_err(Failed::new)
        };
        if let Err(failed) = give_state() {
            drop(paused);
            self.resume()?;
            return Err(failed);
        }
        paused.end();
        self.leave()?;
        Ok(Some(successor))
    }

    /// Duplicates of all sockets that a successor reads.
    fn sockets(&self) -> Result<SocketSet, Failed> {
        let mut all = SocketSet::default();
        for pool in self.pools() {
            all.append(pool.sockets(pool.name())?);
        }
        if let Some(admin) = &*self.admin.lock().expect("no panic while it is held") {
            let addr = admin.listener.local_addr()?;
            let label = Label { pool: String::new(), kind: SocketKind::Admin, worker: 0, addr };
            all.add(label, admin.listener.try_clone()?.into());
        }
        Ok(all)
    }

    /// Pauses every pool; returns the state of each.
    pub(super) fn pause(&self, paused: &mut PausedWorkers) -> Result<State, Failed> {
        let mut pools = self.pools();
        // Datagram pools first: they finish their requests in flight while the others pause.
        pools.sort_by_key(|pool| pool.of().is_native());
        let states =
            pools.iter().map(|pool| Ok((pool.name().to_owned(), pool.pause(paused, self.process.clock)?)));
        states.collect()
    }

    /// Makes every pool read again, even if only some pools were paused.
    pub(super) fn resume(&self) -> Result<(), Failed> {
        let results: Vec<_> = self.pools().iter().map(|pool| pool.resume()).collect();
        results.into_iter().collect()
    }

    /// Finishes the requests in flight; the process ends with them.
    fn leave(&self) -> Result<(), Failed> {
        self.has_successor.store(true, Ordering::Relaxed);
        self.end_admin();
        self.pools().iter().try_for_each(|pool| pool.retire(&self.process))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::super::state::{DatagramState, NativeState};
    use super::*;

    const OTHER_VERSION: &str =
        "cannot take over: the running balancer uses another state version; restart without --takeover";

    /// The values of version 1, which had neither mark nor version.
    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Version1 {
        native: Option<NativeState>,
        pools: Vec<(String, DatagramState)>,
    }

    fn state() -> State {
        vec![
            ("native".to_owned(), PoolState::Native(vec![])),
            ("dns".to_owned(), PoolState::Datagram(DatagramState::default())),
        ]
    }

    #[test]
    fn a_state_of_this_version_is_read_as_it_was_written() {
        let bytes = encode(&state()).unwrap();
        assert_eq!(format!("{:?}", decode(&bytes).unwrap()), format!("{:?}", state()));
        for damaged in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat()] {
            let error = decode(damaged).unwrap_err().to_string();
            assert!(error.contains("the state of the running balancer is damaged"), "{error}");
        }
    }

    #[test]
    fn a_state_of_another_version_is_refused_and_neither_version_takes_the_other_for_its_own() {
        let old = |native, pools| postcard::to_allocvec(&Version1 { native, pools }).unwrap();
        let dns = || vec![("dns".to_owned(), DatagramState::default())];
        let mut newer = encode(&state()).unwrap();
        newer[STATE_MARK.len()] += 1;
        let others = [old(None, vec![]), old(None, dns()), old(Some(vec![]), vec![]), newer, vec![]];
        for bytes in others {
            assert_eq!(decode(&bytes).unwrap_err().to_string(), OTHER_VERSION, "{bytes:?}");
        }
        let read = postcard::from_bytes::<Version1>(&encode(&state()).unwrap());
        assert!(read.is_err(), "{read:?}");
    }
}
