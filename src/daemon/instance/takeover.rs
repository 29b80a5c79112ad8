//! Taking over from a running balancer, and handing over to a successor: the sockets first, while the old one serves on;
//! then, in one short pause, what it knows; then the new one serves and the old one finishes what is its own.
//!
//! Nothing is lost in the pause: what arrives stays in the sockets' buffers, and both processes have the same sockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::held::PausedWorkers;
use super::native::NativeState;
use super::pool::PoolState;
use super::{Failed, Instance};
use crate::admin::status::Kind;
use crate::config::Config;
use crate::daemon::handover::{Holder, Label, Listener, Purpose, Requester, SocketKind, SocketSet};

/// How long a step of the conversation may take that both sides are ready for.
const STEP: Duration = Duration::from_secs(5);
/// How long a successor may take to make everything ready.
const START: Duration = Duration::from_secs(60);
/// How often the listener looks whether the process ends.
const LOOK: Duration = Duration::from_millis(500);

/// What a successor is told beside the sockets.
#[derive(Default, Serialize, Deserialize)]
pub struct State {
    /// Of the native pool, if it runs.
    pub native: Option<NativeState>,
    /// Of each datagram pool, by its name.
    pub pools: Vec<(String, PoolState)>,
}

/// Where a running balancer of this configuration is asked for its sockets.
pub fn path(config: &Config) -> PathBuf {
    let addr = config.pools[0].listen()[0];
    config.state_dir.join(format!("balancer-{addr}.sock"))
}

/// A conversation with the balancer that will be followed.
pub struct Takeover {
    wish: Requester,
}

impl Takeover {
    /// Asks the balancer that listens at this path; gives its sockets.
    pub fn begin(path: &Path) -> Result<(Takeover, SocketSet), Failed> {
        let mut wish = Requester::connect(path, Purpose::Takeover, STEP).map_err(Failed::new)?;
        let sockets = wish.sockets(STEP).map_err(Failed::new)?;
        Ok((Takeover { wish }, sockets))
    }

    /// The process that is followed.
    pub fn predecessor(&self) -> u32 {
        self.wish.pid()
    }

    /// Everything is made: the other one pauses and tells what it knows.
    pub(super) fn state(&mut self) -> Result<State, Failed> {
        let bytes = self.wish.ready(STEP).map_err(Failed::new)?;
        postcard::from_bytes(&bytes).map_err(|error| {
            Failed::new(format!("what the running balancer says of itself is not readable: {error}"))
        })
    }

    /// Everything runs: from now on the sockets are ours.
    pub(super) fn conclude(self) -> Result<(), Failed> {
        self.wish.running(STEP).map_err(Failed::new)
    }
}

impl Instance {
    /// Answers processes that ask for the sockets, at this path, until the process ends.
    pub fn listen_for_successors(self: &Arc<Self>, listener: Listener) -> std::io::Result<()> {
        let instance = Arc::clone(self);
        std::thread::Builder::new().name("handover".into()).spawn(move || {
            while !instance.process.stop.is_asked() {
                let stream = match listener.accept(LOOK) {
                    Ok(Some(stream)) => stream,
                    Ok(None) => continue,
                    Err(error) => return tracing::error!(%error, "nobody can take over any more"),
                };
                match instance.hand_over(stream) {
                    Ok(None) => {}
                    Ok(Some(successor)) => {
                        let text = format!("handed over to process {successor}");
                        tracing::info!("{text}");
                        crate::os::terminal::tell(format_args!("balancer: {text}"));
                        return;
                    }
                    Err(error) => {
                        tracing::error!(%error, "no hand-over: serving on");
                        instance.process.events.note(
                            Kind::Notice,
                            "",
                            None,
                            format!("no hand-over: {error}"),
                        );
                    }
                }
            }
        })?;
        Ok(())
    }

    /// One conversation; gives the successor, if there is one now.
    fn hand_over(&self, stream: std::os::unix::net::UnixStream) -> Result<Option<u32>, Failed> {
        let mut offer = Holder::accept(stream, STEP).map_err(Failed::new)?;
        // Neither a reload meanwhile, nor the end of the process while workers end and none begins.
        let _one_at_a_time = self.reloading.lock().expect("no panic while it is held");
        let sockets = self.sockets()?;
        offer.give(&sockets.borrowed(), STEP).map_err(Failed::new)?;
        if offer.purpose() == Purpose::Copy {
            return Ok(None);
        }
        offer.wait_until_ready(START).map_err(Failed::new)?;
        let successor = offer.pid();
        let mut held = PausedWorkers::default();
        let told = || {
            let state = self.pause(&mut held)?;
            let bytes = postcard::to_allocvec(&state).map_err(Failed::new)?;
            offer.give_state(bytes, STEP).map_err(Failed::new)?;
            offer.conclude(STEP).map_err(Failed::new)
        };
        if let Err(failed) = told() {
            drop(held);
            self.resume()?;
            return Err(failed);
        }
        held.end();
        self.leave()?;
        Ok(Some(successor))
    }

    /// Duplicates of all sockets that a successor reads.
    fn sockets(&self) -> Result<SocketSet, Failed> {
        let running = self.running();
        let mut all = match &running.native {
            Some(native) => native.sockets()?,
            None => SocketSet::default(),
        };
        for pool in &running.pools {
            all.append(pool.fronts(pool.name())?);
        }
        drop(running);
        if let Some(admin) = &*self.admin.lock().expect("no panic while it is held") {
            let addr = admin.listener.local_addr()?;
            let label = Label { pool: String::new(), kind: SocketKind::Admin, worker: 0, addr };
            all.add(label, admin.listener.try_clone()?.into());
        }
        Ok(all)
    }

    /// Stops reading clients everywhere, and the native pool's workers altogether; says what they know.
    fn pause(&self, held: &mut PausedWorkers) -> Result<State, Failed> {
        let running = self.running();
        let mut state = State::default();
        for pool in &running.pools {
            state.pools.push((pool.name().to_owned(), pool.pause()?));
        }
        if let Some(native) = &running.native {
            state.native = Some(native.pause(held, self.process.clock)?);
        }
        Ok(state)
    }

    /// Reads on everywhere, however far the pause has come.
    fn resume(&self) -> Result<(), Failed> {
        let running = self.running();
        let native = running.native.as_ref().map_or(Ok(()), |native| native.resume());
        running.pools.iter().fold(native, |result, pool| result.and(pool.resume()))
    }

    /// Finishes what is under way; the process ends with it.
    fn leave(&self) -> Result<(), Failed> {
        self.is_followed.store(true, Ordering::Relaxed);
        self.end_admin();
        self.running().pools.iter().try_for_each(|pool| pool.retire(&self.process))
    }
}
