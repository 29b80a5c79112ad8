//! Taking over from a running balancer, and handing over to a successor. The successor receives the sockets
//! first, while the predecessor keeps serving. Then, in one short pause, the successor receives the state of
//! all pools. Then the successor serves, and the predecessor finishes its own requests in flight.
//!
//! The pause loses nothing: datagrams that arrive stay in the sockets' buffers, and both processes have the
//! same sockets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::paused::PausedWorkers;
use super::state::{HandedPool, LastTotals};
use super::{Failed, Instance};
use crate::admin;
use crate::admin::status::{EventKind, Life, PoolSource};
use crate::base::seldom::Seldom;
use crate::config::Config;
use crate::daemon::handover::{HandoverPurpose, Holder, Label, Listener, Requester, SocketKind, SocketSet};
use crate::io::Waker;
use crate::os::limits;
use crate::pool::stats::PoolTotals;

/// Maximum time of a step for which both sides are ready.
const STEP: Duration = Duration::from_secs(5);
/// Maximum time for a successor to prepare everything.
const START: Duration = Duration::from_secs(60);
/// Maximum time for a predecessor to finish its requests in flight: those of zone transfers can take minutes.
const END: Duration = Duration::from_secs(3_600);
/// Interval at which the listener checks whether the process ends.
const CHECK: Duration = Duration::from_millis(100);

/// File descriptors besides duplicates of those that are open.
const OTHER_FILES: u64 = 64;

/// The state of all pools.
type State = Vec<HandedPool>;

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
pub fn decode(bytes: &[u8]) -> Result<State, Failed> {
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

/// The Unix sockets of balancers in the state directory of this configuration. A balancer whose first address
/// was another one has another name there.
pub fn paths(config: &Config) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&config.state_dir).into_iter().flatten().flatten();
    let is_socket = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("balancer-") && name.ends_with(".sock")
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(is_socket).collect();
    paths.sort();
    paths
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

    /// Tells the balancer that listens at this path why a process cannot even begin to take over.
    pub fn decline(path: &Path, why: &str) {
        // It may have ended: the reason is on standard error too.
        if let Ok((mut takeover, sockets)) = Takeover::begin(path) {
            drop(sockets);
            takeover.refuse(why);
        }
    }

    /// The process id of the predecessor.
    pub fn predecessor(&self) -> u32 {
        self.requester.pid()
    }

    /// Makes the predecessor pause after everything is prepared, and passes its state to `restore`. If
    /// `restore` accepts all of it, this process reads the sockets from now on: those of `continued` pools
    /// towards servers too. If not, the predecessor receives the reason and keeps serving.
    pub(super) fn conclude(
        &mut self,
        continued: Vec<String>,
        restore: impl FnOnce(State) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        self.requester.continues(continued, STEP).map_err(Failed::new)?;
        let bytes = self.requester.ready(STEP).map_err(Failed::new)?;
        decode(&bytes).and_then(restore)?;
        self.requester.running(STEP).map_err(Failed::new)
    }

    /// Tells the predecessor why this process gives up, so that it logs the reason and keeps serving.
    pub fn refuse(&mut self, why: &str) {
        let _ = self.requester.refuse(why, STEP); // it may have ended
    }

    /// What the predecessor leaves besides its pools. It has stopped to show its status.
    pub(super) fn life(&mut self) -> Result<Life, Failed> {
        let bytes = self.requester.state(STEP).map_err(Failed::new)?;
        serde_json::from_slice(&bytes).map_err(Failed::new)
    }

    /// Waits for the end of the predecessor, and returns what it has counted.
    pub(super) fn last_totals(&mut self) -> Result<LastTotals, Failed> {
        let bytes = self.requester.state(END).map_err(Failed::new)?;
        postcard::from_bytes(&bytes).map_err(Failed::new)
    }
}

impl Instance {
    /// Serves processes that request the sockets at this path, until the process ends.
    pub fn listen_for_successors(self: &Arc<Self>, listener: Listener) -> std::io::Result<()> {
        let (instance, waker) = (Arc::clone(self), Waker::open()?);
        let thread = std::thread::Builder::new().name("handover".into()).spawn(move || {
            let mut failed = Seldom::default();
            let _woken = instance.process.stop.wake_also(waker.clone());
            while !instance.process.stop.is_asked() {
                if let Err(error) = listener.wait(&waker) {
                    tracing::error!(
                        error = error.to_string(),
                        effect = "no process can take over",
                        "handover listener failed"
                    );
                    return;
                }
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
        match self.converse(&mut holder) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let successor = holder.pid();
                self.leave(&mut holder)?;
                *self.successor.lock().expect("no panic while it is held") = Some(holder);
                Ok(Some(successor))
            }
            Err(failed) => {
                let _ = holder.refuse(&failed.to_string(), STEP); // it may be the one that has given up
                Err(failed)
            }
        }
    }

    /// Gives the sockets and the state. True if the successor has them.
    fn converse(&self, holder: &mut Holder) -> Result<bool, Failed> {
        let purpose = holder.purpose();
        let sockets = self.sockets(purpose)?;
        holder.give(&sockets.borrowed(), STEP).map_err(Failed::new)?;
        drop(sockets);
        if purpose == HandoverPurpose::Copy {
            return Ok(false);
        }
        let continued = holder.wait_until_ready(START).map_err(Failed::new)?;
        let mut paused = PausedWorkers::default();
        let mut give_state = || {
            let state = encode(&self.pause(&mut paused, &continued)?)?;
            holder.give_state(state, STEP).map_err(Failed::new)?;
            holder.conclude(STEP).map_err(Failed::new)
        };
        if let Err(failed) = give_state() {
            drop(paused);
            self.resume()?;
            return Err(failed);
        }
        self.has_successor.store(true, Ordering::Relaxed);
        paused.end();
        Ok(true)
    }

    /// Duplicates of all sockets that a successor reads. A supervisor, which keeps a copy, gets no ports of
    /// flows: the next process after a crash knows none of the flows.
    fn sockets(&self, purpose: HandoverPurpose) -> Result<SocketSet, Failed> {
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        // Without enough of them the duplicates fail, with the error of the system.
        let _ = limits::allow_files(2 * open as u64 + OTHER_FILES, "pools[].ports");
        let mut all = SocketSet::default();
        for pool in self.pools() {
            all.append(match purpose {
                HandoverPurpose::Takeover => pool.sockets(pool.name())?,
                HandoverPurpose::Copy => pool.sockets_left(pool.name())?,
            });
        }
        let admin = self.admin.lock().expect("no panic while it is held");
        if let Some((listener, _)) = admin.as_ref().and_then(|admin| admin.http.as_ref()) {
            let addr = listener.local_addr()?;
            let label = Label { pool: String::new(), kind: SocketKind::Admin, worker: 0, addr };
            all.add(label, listener.try_clone()?.into());
        }
        Ok(all)
    }

    /// Pauses every pool; returns the state of each. `continued`: pools whose server-side sockets the
    /// successor reads too.
    pub(super) fn pause(&self, paused: &mut PausedWorkers, continued: &[String]) -> Result<State, Failed> {
        let mut pools = self.pools();
        // Datagram pools first: they finish their requests in flight while the others pause.
        pools.sort_by_key(|pool| pool.of().is_native());
        let states = pools.iter().map(|pool| {
            let name = pool.name().to_owned();
            let state = pool.pause(paused, self.process.clock, continued.contains(&name))?;
            Ok(HandedPool { name, state, totals: pool.counters().totals() })
        });
        states.collect()
    }

    /// Makes every pool read again, even if only some pools were paused.
    pub(super) fn resume(&self) -> Result<(), Failed> {
        let results: Vec<_> = self.pools().iter().map(|pool| pool.resume()).collect();
        results.into_iter().collect()
    }

    /// Stops to show the status, so that no reader sees older numbers after newer ones; leaves what there is
    /// besides the pools; finishes the requests in flight. The process ends with them.
    fn leave(&self, holder: &mut Holder) -> Result<(), Failed> {
        self.end_admin();
        let life = serde_json::to_vec(&self.life()).map_err(Failed::new)?;
        if let Err(error) = holder.give_state(life, STEP) {
            tracing::warn!(error = error.to_string(), effect = "history restarts", "history not handed over");
        }
        self.pools().iter().try_for_each(|pool| pool.retire(&self.process))
    }

    /// What this process leaves besides its pools.
    fn life(&self) -> Life {
        let events = &self.process.events;
        Life {
            started_unix_ms: self.board.about().started_unix_ms(),
            cpu_s: self.cpu_s(),
            events: events.after(0),
            event_counts: events.counts().into_iter().map(|(_, count)| count).collect(),
            history: self.history.lock().expect("no panic while it is held").clone(),
        }
    }

    /// CPU seconds of this process and those before it.
    fn cpu_s(&self) -> f64 {
        self.board.about().predecessors_cpu_s() + admin::cpu_seconds()
    }

    /// Tells the successor what this process has counted since its state. All workers have ended.
    pub(super) fn tell_last_totals(&self) {
        let Some(mut holder) = self.successor.lock().expect("no panic while it is held").take() else {
            return;
        };
        let pools = self.pools();
        let totals = pools.iter().map(|pool| (pool.name().to_owned(), pool.counters().totals()));
        let last = LastTotals { cpu_s: self.cpu_s(), pools: totals.collect() };
        let bytes = postcard::to_allocvec(&last).expect("plain values in memory");
        let _ = holder.give_state(bytes, STEP); // it may have ended
    }
}

/// The totals at which the pools of a predecessor stopped.
pub(super) struct Continued {
    /// By pool: its totals, and the slot here of each of its slots.
    pools: Vec<(String, PoolTotals, BTreeMap<u16, u16>)>,
}

impl Continued {
    /// Of no pool yet.
    pub fn new() -> Continued {
        Continued { pools: vec![] }
    }

    /// Continues a pool's totals, before its workers start.
    pub fn add(&mut self, name: String, counters: &PoolSource, totals: PoolTotals) {
        let slots = counters.continue_from(&totals);
        self.pools.push((name, totals, slots));
    }
}

impl Instance {
    /// Waits for the predecessor's end in a thread of its own, and adds what the predecessor has counted
    /// since its state. If it dies, its requests in flight have timed out.
    pub(super) fn follow_predecessor(
        self: &Arc<Self>,
        mut takeover: Takeover,
        continued: Continued,
    ) -> std::io::Result<()> {
        let instance = Arc::clone(self);
        let thread = std::thread::Builder::new().name("predecessor".into()).spawn(move || {
            let last = takeover.last_totals();
            if let Ok(last) = &last {
                instance.board.about().set_predecessors_cpu_s(last.cpu_s);
            }
            let pools = instance.pools();
            for (name, before, slots) in continued.pools {
                let Some(pool) = pools.iter().find(|pool| pool.name() == name) else { continue };
                let now = last.as_ref().ok().and_then(|last| last.pools.iter().find(|(of, _)| *of == name));
                let totals = match now {
                    Some((_, now)) => now.since(&before),
                    None => PoolSource::written_off(&before),
                };
                pool.add_totals(&totals, &slots, &instance.process);
            }
        })?;
        *self.predecessor.lock().expect("no panic while it is held") = Some(thread);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::super::state::{DatagramState, NativeState, PoolState};
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
        let pool =
            |name: &str, state| HandedPool { name: name.to_owned(), state, totals: PoolTotals::default() };
        vec![
            pool("native", PoolState::Native(vec![])),
            pool("dns", PoolState::Datagram(DatagramState::default())),
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
