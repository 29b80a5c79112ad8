//! Commands to a running balancer, through its admin interface.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use lbd::admin::status::{PoolStatus, ServerStatus, Status};
use lbd::admin::{AdminClient, AdminPlace, ClientError};
use lbd::base::duration::exact;
use lbd::config::{Config, Token};
use lbd::os::terminal::{print, tell};
use lbd::pool::order::Order;

use crate::args::{DrainArgs, OrderArgs, ReachArgs, StatusArgs, WeightArgs};
use crate::{shown, table};

/// Interval of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Interval of `--wait`.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time for which `--wait` tolerates a balancer that does not respond, since it may restart.
const AWAY_MAX: Duration = Duration::from_secs(5);

/// `lbd status`; false if a pool is not ready.
pub fn status(args: &StatusArgs) -> Result<bool> {
    let client = AdminClient::new(args.reach.place()?, None);
    let one = |status: &Status| match args.json {
        true => status.to_json().map(|json| json + "\n").context("cannot write the status"),
        false => Ok(shown::render(status, unix_ms(), shown::has_colours())),
    };
    if !args.watch {
        let status = client.status()?;
        print(format_args!("{}", one(&status)?))?;
        return Ok(status.ready);
    }
    loop {
        let is_read = match client.status() {
            Ok(status) if args.json => print(format_args!("{}", one(&status)?))?,
            Ok(status) => table::show(&one(&status)?)?,
            Err(error @ ClientError::NoAnswer { .. }) if !args.json => table::show(&format!("{error}\n"))?,
            Err(ClientError::NoAnswer { .. }) => true,
            Err(error) => return Err(error.into()),
        };
        if !is_read {
            return Ok(true);
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

/// `lbd drain`; false if requests are left after the wait.
pub fn drain(args: &DrainArgs) -> Result<bool> {
    let client = args.server.order(Order::Drain)?;
    match args.wait {
        None => Ok(true),
        Some(patience) => wait_until_empty(&client, &args.server, patience),
    }
}

/// `lbd enable` and `lbd disable`.
pub fn order(args: &OrderArgs, order: Order) -> Result<bool> {
    args.order(order).map(|_| true)
}

/// `lbd weight`.
pub fn weight(args: &WeightArgs) -> Result<bool> {
    order(&args.server, Order::Weight(args.weight).check()?)
}

/// `lbd reload`.
pub fn reload(reach: &ReachArgs) -> Result<bool> {
    let changed = reach.with_token()?.reload()?;
    print(format_args!("{changed}\n"))?;
    Ok(true)
}

impl OrderArgs {
    /// Gives the order and prints it.
    fn order(&self, order: Order) -> Result<AdminClient> {
        let client = self.reach.with_token()?;
        client.order(self.pool.as_deref(), self.id, order)?;
        let what = match order {
            Order::Weight(weight) => format!("weight {weight}"),
            order => order.name().to_owned(),
        };
        print(format_args!("server {}: {what}\n", self.id))?;
        Ok(client)
    }

    /// The server in a status.
    fn find<'a>(&self, status: &'a Status) -> Option<&'a ServerStatus> {
        let is_meant = |pool: &&PoolStatus| self.pool.as_ref().is_none_or(|name| *name == pool.name);
        let servers = status.pools.iter().filter(is_meant).flat_map(|pool| &pool.servers);
        servers.into_iter().find(|server| server.id == self.id)
    }
}

/// Waits until the server's queue is empty, or the server has left. Prints the queue when it changes.
fn wait_until_empty(client: &AdminClient, args: &OrderArgs, patience: Duration) -> Result<bool> {
    let (id, give_up) = (args.id, Instant::now() + patience);
    let (mut told, mut seen_draining, mut answered) = (None, false, Instant::now());
    loop {
        match client.status() {
            Ok(status) => {
                answered = Instant::now();
                let Some(server) = args.find(&status) else { break };
                let takes_none = matches!(server.state.as_str(), "draining" | "disabled" | "down");
                if takes_none && server.queue == 0 {
                    break;
                }
                if seen_draining && !takes_none {
                    end_progress();
                    tell(format_args!("server {id} is {} again: an operator enabled it", server.state));
                    return Ok(false);
                }
                seen_draining |= takes_none;
                if told != Some(server.queue) {
                    progress(format_args!("server {id}: {} requests left", server.queue));
                    told = Some(server.queue);
                }
            }
            Err(ClientError::NoAnswer { .. }) if answered.elapsed() < AWAY_MAX => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= give_up {
            end_progress();
            let (queue, patience) = (told.unwrap_or(0), exact(patience));
            tell(format_args!("server {id} still has {queue} requests after {patience}; draining continues"));
            return Ok(false);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    end_progress();
    print(format_args!("server {id} is empty\n"))?;
    Ok(true)
}

/// Clears the progress of a terminal, before a line that stays.
fn end_progress() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

/// Prints progress: on a terminal in place, anywhere else on a line of its own.
fn progress(text: std::fmt::Arguments<'_>) {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r{text}\x1b[K\r");
    } else {
        tell(text);
    }
}

impl ReachArgs {
    fn config(&self) -> Result<Config> {
        Config::load_or_default(self.config.as_deref()).context(
            "cannot read the admin address from the configuration; fix the file, or use --admin ADDR",
        )
    }

    /// Where the balancer's admin interface is: at the address that was given, or at the socket and the
    /// address of the configuration.
    pub fn place(&self) -> Result<AdminPlace> {
        match self.admin {
            Some(addr) => Ok(addr.into()),
            None => Ok(AdminPlace::of(&self.config()?)),
        }
    }

    /// A client that may make changes.
    pub fn with_token(&self) -> Result<AdminClient> {
        let place = self.place()?;
        let client = match &self.token_file {
            Some(path) => Token::read(path).map(|token| AdminClient::new(place.clone(), Some(token))),
            None => {
                let config = self.config()?;
                place.with_token(&config.admin, &config.state_dir)
            }
        };
        match client {
            Ok(client) => Ok(client),
            // If the balancer does not respond, that is the error, and not the missing token.
            Err(problem) => {
                AdminClient::new(place, None).status()?;
                bail!(problem)
            }
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
