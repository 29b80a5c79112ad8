//! `lbd top`: the status of a running balancer, live in a terminal. One thread queries the balancer, and this
//! one draws and reads keys. The parts between them are pure ([`model`], [`render`]).

mod model;
mod render;
#[cfg(test)]
mod samples;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use lbd::admin::status::Status;
use lbd::admin::{AdminClient, AdminPlace};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::args::{ReachArgs, TopArgs};
use model::{Action, App, Ask};

/// Maximum delay of a key or a signal.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Minimum time between two queries.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Runs until the user or a signal quits it.
pub fn run(args: &TopArgs) -> Result<()> {
    if !std::io::stdout().is_terminal() {
        bail!("lbd top needs a terminal: for a script use `lbd status --json`");
    }
    let place = args.reach.place()?;
    let quit = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&quit)).context("cannot listen for signals")?;
    }
    let (orders, to_send) = channel();
    let (news, heard) = channel();
    let shown = place.to_string();
    let (reach, interval) = (args.reach.clone(), args.interval.max(INTERVAL_MIN));
    std::thread::Builder::new()
        .name("asks".into())
        .spawn(move || ask_on(place, &reach, interval, &to_send, &news))
        .context("cannot start a thread")?;
    // Raw mode and the alternate screen; a panic restores both before its message is printed.
    let mut terminal = ratatui::try_init().context("cannot draw on this terminal")?;
    let result = show(&mut terminal, App::new(shown), &orders, &heard, &quit);
    ratatui::restore();
    result
}

/// A result of the querying thread.
enum QueryResult {
    Status(Result<Box<Status>, String>),
    Answer(Ask, Result<(), String>),
}

/// Queries the status at an interval, and sends orders as they come, until the other thread ends.
fn ask_on(
    place: AdminPlace,
    reach: &ReachArgs,
    interval: Duration,
    orders: &Receiver<Ask>,
    news: &Sender<QueryResult>,
) {
    let client = AdminClient::new(place, None);
    // The token is read for each order: a restarted balancer may have another one.
    let send = |ask: &Ask| {
        reach.with_token()?.order(Some(&ask.pool), ask.id, ask.order).map_err(anyhow::Error::from)
    };
    let mut next = Instant::now();
    loop {
        match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(ask) => {
                let result = send(&ask).map_err(|e| format!("{e:#}"));
                if news.send(QueryResult::Answer(ask, result)).is_err() {
                    return;
                }
                next = Instant::now(); // what it has changed is to be seen
            }
            Err(RecvTimeoutError::Timeout) => {
                next = Instant::now() + interval;
                let status = client.status().map(Box::new).map_err(|e| e.to_string());
                if news.send(QueryResult::Status(status)).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    mut app: App,
    orders: &Sender<Ask>,
    heard: &Receiver<QueryResult>,
    quit: &AtomicBool,
) -> Result<()> {
    while !quit.load(Ordering::Relaxed) {
        for news in heard.try_iter() {
            match news {
                QueryResult::Status(status) => app.on_status(status.map(|status| *status)),
                QueryResult::Answer(ask, result) => app.on_answer(&ask, result),
            }
        }
        app.unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        terminal.draw(|frame| render::render(&app, frame)).context("cannot draw")?;
        if !event::poll(LOOK_EVERY).context("cannot read keys")? {
            continue;
        }
        let Event::Key(key) = event::read().context("cannot read keys")? else { continue };
        match app.on_key(key) {
            Some(Action::Quit) => break,
            // The querying thread lives as long as this one receives.
            Some(Action::Send(ask)) => drop(orders.send(ask)),
            None => {}
        }
    }
    Ok(())
}
