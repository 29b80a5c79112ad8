//! The controller's conversation with the balancer of datagram pools, over its admin interface: reads the
//! status of the pools, and sends the servers that run. On a thread of its own, since it waits for each
//! response.
//!
//! Level-triggered: a set of servers is sent again while the status of the balancer does not show it. So a
//! balancer that was restarted gets it too.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::admin::status::{PoolStatus, Status};
use crate::admin::{AdminClient, AdminPlace};
use crate::base::drop_reason::DropReason;
use crate::config::Admin;
use crate::pool::desired::DesiredServer;
use crate::pool::health::State;
use crate::supervise::pool::{ObservedPool, ObservedServer};

/// The interval between two requests.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// A status older than this is not used.
const OUTDATED: Duration = Duration::from_secs(1);

type Sets = BTreeMap<String, Vec<DesiredServer>>;

/// A status of the balancer.
#[derive(Debug)]
struct StatusNews {
    number: u64,
    at: Instant,
    status: Status,
    /// The sets that had been sent before.
    told: Sets,
}

#[derive(Debug, Default)]
struct UpstreamBoard {
    sets: Sets,
    news: Option<Arc<StatusNews>>,
    is_over: bool,
}

#[derive(Debug, Default)]
struct UpstreamShared {
    board: Mutex<UpstreamBoard>,
    changed: Condvar,
}

/// The handle of the thread. When it is dropped, the thread ends after its current request.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<UpstreamShared>,
    /// The number of the newest status that the loop has used.
    looked_at: u64,
}

impl Upstream {
    /// Starts the conversation with the balancer at this place.
    pub fn start(place: AdminPlace, admin: Admin, state_dir: PathBuf) -> io::Result<Upstream> {
        let shared = Arc::new(UpstreamShared::default());
        let asker = Asker {
            place,
            admin,
            state_dir,
            shared: Arc::clone(&shared),
            told: Sets::new(),
            last: None,
            number: 0,
            is_silent: false,
        };
        std::thread::Builder::new().name("upstream".into()).spawn(move || asker.run())?;
        Ok(Upstream { shared, looked_at: 0 })
    }

    /// Replaces the servers of a pool.
    pub fn tell(&self, pool: &str, set: Vec<DesiredServer>) {
        let mut board = self.shared.board.lock().expect("no panic while it is held");
        if board.sets.get(pool) != Some(&set) {
            board.sets.insert(pool.to_owned(), set);
            self.shared.changed.notify_one();
        }
    }

    /// The status of these pools, in their order; `None` if it has been returned before, `Some(None)` if the
    /// balancer does not respond.
    pub fn looks(&mut self, pools: &[&str]) -> Option<Option<Vec<ObservedPool>>> {
        let news = self.shared.board.lock().expect("no panic while it is held").news.clone();
        let Some(news) = news.filter(|news| news.at.elapsed() < OUTDATED) else { return Some(None) };
        if news.number == self.looked_at {
            return None;
        }
        self.looked_at = news.number;
        let looks = pools.iter().map(|name| {
            let told = news.told.get(*name).map_or(&[][..], Vec::as_slice);
            let pool = news.status.pools.iter().find(|pool| pool.name == *name);
            pool.map_or_else(ObservedPool::default, |pool| look(pool, told))
        });
        Some(Some(looks.collect()))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.board.lock().expect("no panic while it is held").is_over = true;
        self.shared.changed.notify_one();
    }
}

fn look(pool: &PoolStatus, told: &[DesiredServer]) -> ObservedPool {
    let seen = pool.servers.iter().filter_map(|server| {
        let state = State::ALL.into_iter().find(|state| state.name() == server.state)?;
        Some(ObservedServer { id: server.id, state, queue: server.queue })
    });
    // More servers help against both: each has a limit and pairs with the ports of its own.
    let of_room = [DropReason::ServersFull, DropReason::NoPort];
    let shed = of_room.iter().filter_map(|reason| pool.refused.get(reason.name())).sum();
    ObservedPool {
        servers: seen.collect(),
        waiting: pool.decisions.waiting,
        shed,
        arrived: pool.arrived,
        told: told.iter().map(|wanted| wanted.id).collect(),
    }
}

/// The thread.
struct Asker {
    place: AdminPlace,
    admin: Admin,
    state_dir: PathBuf,
    shared: Arc<UpstreamShared>,
    told: Sets,
    last: Option<Status>,
    number: u64,
    is_silent: bool,
}

impl Asker {
    fn run(mut self) {
        while let Some(sets) = self.next() {
            let asked = self.ask(&sets);
            if let Err(why) = &asked
                && !self.is_silent
            {
                let effect = "replicas unchanged";
                warn!(addr = %self.place, error = why, effect, "balancer unreachable");
            } else if asked.is_ok() && self.is_silent {
                info!(addr = %self.place, "balancer reachable again");
            }
            self.is_silent = asked.is_err();
        }
    }

    /// Waits for the next request: until its time, or a change; `None` at the end.
    fn next(&self) -> Option<Sets> {
        let board = self.shared.board.lock().expect("no panic while it is held");
        let nothing_new = |board: &mut UpstreamBoard| !board.is_over && board.sets == self.told;
        let waited = self.shared.changed.wait_timeout_while(board, ASK_EVERY, nothing_new);
        let board = waited.expect("no panic while it is held").0;
        (!board.is_over).then(|| board.sets.clone())
    }

    fn ask(&mut self, sets: &Sets) -> Result<(), String> {
        for (pool, set) in sets {
            if self.told.get(pool) == Some(set) && self.is_shown(pool, set) {
                continue;
            }
            // A restarted balancer may have another token.
            let client = self.place.with_token(&self.admin, &self.state_dir);
            let told =
                client.and_then(|client| client.set_servers(pool, set).map_err(|error| error.to_string()));
            match told {
                Ok(()) => drop(self.told.insert(pool.clone(), set.clone())),
                Err(why) => {
                    // The next attempt follows after a pause.
                    std::thread::sleep(ASK_EVERY);
                    self.last = None;
                    return Err(why);
                }
            }
        }
        let client = AdminClient::new(self.place.clone(), None);
        let status = client.status().map_err(|error| error.to_string())?;
        self.last = Some(status.clone());
        self.number += 1;
        let news = StatusNews { number: self.number, at: Instant::now(), status, told: self.told.clone() };
        self.shared.board.lock().expect("no panic while it is held").news = Some(Arc::new(news));
        Ok(())
    }

    /// Whether the status shows each server of a set, and none of them drains.
    fn is_shown(&self, pool: &str, set: &[DesiredServer]) -> bool {
        let shown = self.last.as_ref().and_then(|last| last.pools.iter().find(|shown| shown.name == pool));
        let is_there = |wanted: &DesiredServer, pool: &PoolStatus| {
            let addr = wanted.addr.to_string();
            pool.servers.iter().any(|server| {
                server.id == wanted.id && server.addr == addr && server.state != State::Draining.name()
            })
        };
        shown.is_some_and(|shown| set.iter().all(|wanted| is_there(wanted, shown)))
    }
}
