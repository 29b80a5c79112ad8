//! `lbd controller`: takes the balancer's orders, and runs the servers.

use std::time::Duration;

use anyhow::{Context, Result};
use lbd::config::Config;
use lbd::crew::{Bounds, Crew};
use lbd::daemon::controller::{Ledger, ServerCommand, Supervisor};
use lbd::daemon::{self, signals::Stop};
use lbd::io::BackEnd;
use lbd::io::socket::{SocketOptions, bind};
use lbd::logging;
use lbd::rng::entropy;
use lbd::role::controller;
use lbd::time::Clock;

use crate::args::Common;
use crate::run::{say, server_command};

/// How long a turn without anything to do takes.
const TURN: Duration = Duration::from_secs(1);

/// Runs until it is asked to stop, and every server has.
pub fn run(common: &Common) -> Result<()> {
    let config = common.load_native("lbd controller")?;
    let command = server_command(&config)?;
    let (mut supervisor, stop, _log) = open(&config, &command, config.server.run.count)?;
    say(common, format_args!("controller: orders on {}", config.controller));
    let (mut stopping, mut done) = (false, false);
    while !done && !stop.is_asked_twice() {
        supervisor.turn(TURN)?;
        for event in supervisor.take_events() {
            say(common, format_args!("controller: {event}"));
        }
        if stop.is_asked() && !stopping {
            stopping = true;
            supervisor.shut_down();
        }
        done = stopping && supervisor.is_empty();
    }
    supervisor.kill_all();
    Ok(())
}

/// Settings, sockets and log of a controller; also the beginning of `lbd up`.
pub fn open(
    config: &Config,
    servers: &[String],
    count: u32,
) -> Result<(Supervisor<BackEnd>, Stop, logging::Guard)> {
    let clock = Clock::start();
    let name = format!("controller-{}", config.controller.port());
    let ledger = Ledger::open(&config.state_dir, &name, "controller.port")?;
    let socket = bind(config.controller, &SocketOptions::default())
        .context("no place for orders; end what has the port, or set another controller.port")?;
    let log = logging::init(&config.logs, "controller/controller.log")?;
    let io = daemon::back_end(config.io, vec![socket], &config.io_options(), clock)?;
    let stop = Stop::on_signals(vec![io.waker()])?;
    let settings = controller::Settings {
        format: config.native().format,
        key: config.key_bytes(),
        balancer: config.balancer_for_servers(),
        seed: entropy(),
    };
    let run = &config.server.run;
    let bounds = Bounds { count, max: run.scale.max.max(count), ..run.bounds(None) };
    let command = ServerCommand {
        words: match &run.command {
            Some(words) => words.clone(),
            None => servers.to_vec(),
        },
        config: config.source.as_ref().map_or("config.json".into(), |path| path.display().to_string()),
        ip: config.balancer_for_servers().ip(),
    };
    let role = controller::ControllerRole::new(settings, Crew::new(bounds));
    Ok((Supervisor::new(role, io, clock, command, ledger), stop, log))
}
