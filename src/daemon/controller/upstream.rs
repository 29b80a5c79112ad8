//! What the controller has to do with the balancer of datagram pools: asks what it shows, and tells it which servers run.
//! On a thread of its own, as each answer is waited for.
//!
//! Level-triggered: a set is told again as long as the balancer does not show it, so one that was restarted hears it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::admin::status::{PoolStatus, Status};
use crate::admin::{Client, find_token};
use crate::base::drop_reason::DropReason;
use crate::config::Admin;
use crate::pool::desired::DesiredServer;
use crate::pool::health::State;
use crate::supervise::pool::{ObservedPool, ObservedServer};

/// How often the balancer is asked.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// What was seen so long ago says nothing about the present.
const OUTDATED: Duration = Duration::from_secs(1);

type Sets = BTreeMap<String, Vec<DesiredServer>>;

/// What the balancer showed at one moment.
#[derive(Debug)]
struct News {
    number: u64,
    at: Instant,
    status: Status,
    /// The sets that it had been told before.
    told: Sets,
}

#[derive(Debug, Default)]
struct Board {
    sets: Sets,
    news: Option<Arc<News>>,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    board: Mutex<Board>,
    changed: Condvar,
}

/// The thread, as the controller's loop knows it. It ends with this value, when its present question is answered.
#[derive(Debug)]
pub struct Upstream {
    shared: Arc<Shared>,
    /// The news that the loop has looked at already.
    looked_at: u64,
}

impl Upstream {
    /// Begins to ask the balancer whose admin interface is at this address.
    pub fn start(addr: SocketAddr, admin: Admin, state_dir: PathBuf) -> io::Result<Upstream> {
        let shared = Arc::new(Shared::default());
        let asker = Asker {
            addr,
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

    /// Says which servers of a pool there are.
    pub fn tell(&self, pool: &str, set: Vec<DesiredServer>) {
        let mut board = self.shared.board.lock().expect("no panic while it is held");
        if board.sets.get(pool) != Some(&set) {
            board.sets.insert(pool.to_owned(), set);
            self.shared.changed.notify_one();
        }
    }

    /// What the balancer shows of these pools, in their order, if it has not been given before. `Some(None)`: it does not
    /// answer.
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
    // More servers make room for both: each has its own limit, and its own pairs with the ports.
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
    addr: SocketAddr,
    admin: Admin,
    state_dir: PathBuf,
    shared: Arc<Shared>,
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
                warn!("no data of the datagram pools: {why}. Their servers stay as they are");
            } else if asked.is_ok() && self.is_silent {
                info!("the balancer at {} answers again", self.addr);
            }
            self.is_silent = asked.is_err();
        }
    }

    /// Waits until it is time, or something has changed; `None` at the end.
    fn next(&self) -> Option<Sets> {
        let board = self.shared.board.lock().expect("no panic while it is held");
        let nothing_new = |board: &mut Board| !board.is_over && board.sets == self.told;
        let waited = self.shared.changed.wait_timeout_while(board, ASK_EVERY, nothing_new);
        let board = waited.expect("no panic while it is held").0;
        (!board.is_over).then(|| board.sets.clone())
    }

    fn ask(&mut self, sets: &Sets) -> Result<(), String> {
        for (pool, set) in sets {
            if self.told.get(pool) == Some(set) && self.is_shown(pool, set) {
                continue;
            }
            // A balancer that was started anew has another one.
            let token = find_token(&self.admin, &self.state_dir, self.addr.port());
            let told = token.and_then(|token| {
                let client = Client::new(self.addr, Some(token));
                client.set_servers(pool, set).map_err(|error| error.to_string())
            });
            match told {
                Ok(()) => drop(self.told.insert(pool.clone(), set.clone())),
                Err(why) => {
                    // The next word is for after a pause.
                    std::thread::sleep(ASK_EVERY);
                    self.last = None;
                    return Err(why);
                }
            }
        }
        let status = Client::new(self.addr, None).status().map_err(|error| error.to_string())?;
        self.last = Some(status.clone());
        self.number += 1;
        let news = News { number: self.number, at: Instant::now(), status, told: self.told.clone() };
        self.shared.board.lock().expect("no panic while it is held").news = Some(Arc::new(news));
        Ok(())
    }

    /// Whether the balancer shows each server of a set as one that it may send to.
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
