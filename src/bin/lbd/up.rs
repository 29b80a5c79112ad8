//! `lbd up`: the controller with its servers, a balancer, clients and a live table.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lbd::admin::status::{PoolStatus, Status};
use lbd::base::duration::{exact, rounded};
use lbd::config::Config;
use lbd::daemon::client::Summary;
use lbd::daemon::controller::Supervisor;
use lbd::daemon::supervised_balancer::{self, SupervisedBalancer};
use lbd::io::BackEnd;
use lbd::os::notify;
use lbd::os::process::Process;
use lbd::os::signals::Stop;
use lbd::os::terminal::{print, tell};
use tracing::{info, warn};

use crate::args::UpArgs;

use crate::command::dashboard_link;
use crate::{command, controller, table};

/// Maximum time for the balancer and the servers to come up.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Interval of the table.
const TABLE_EVERY: Duration = Duration::from_secs(1);
/// Maximum scaling events below the table; the newest are shown.
const EVENTS_SHOWN: usize = 6;

/// Runs the system until the duration is over or Ctrl-C; true if every request was answered.
pub fn run(args: &UpArgs) -> Result<bool> {
    let config = args.common.load()?;
    let pool = config.require_native("lbd up")?;
    let run = command::replicas(pool)?;
    let count = args.servers.unwrap_or(run.count);
    if !(1..=run.scale.max).contains(&count) {
        bail!("--servers {count} must be from 1 to server.max = {}", run.scale.max);
    }
    let clients = args.clients.unwrap_or(config.client.count);
    if clients as usize > config.client.ports.len() {
        bail!("--clients {clients} exceeds the {} ports of the client range", config.client.ports.len());
    }
    let rate = args.rate.unwrap_or(config.client.rate);
    if !rate.is_finite() || rate <= 0.0 {
        bail!("--rate must be greater than 0 requests per second");
    }
    let mut server = command::server_command(&config, pool)?;
    let service = args.service.or(pool.serving.service).map_or("exp:5ms".to_owned(), |s| s.to_string());
    server.extend(["--service".to_owned(), service.clone()]);
    let servers = controller::Servers { words: &server, count };
    let (supervisor, stop, _log) = controller::open(&config, Some(&servers))?;
    let mut system = System {
        supervisor,
        stop,
        balancer: BalancerProcess::start(&config)?,
        clients: vec![],
        events: vec![],
        dashboard: None,
        quiet: args.common.quiet,
        started: Instant::now(),
    };
    system.wait_for_servers(count)?;
    if !args.common.quiet {
        tell(format_args!(
            "up: clients on {}, servers on {}, {rate} requests/s, service {service}",
            pool.client_side, pool.server_side
        ));
        let dashboard = system.balancer.kept.dashboard(&config);
        system.dashboard = dashboard.map(|(addr, token)| dashboard_link(addr, &token));
        if let Some(url) = &system.dashboard {
            tell(format_args!("up: dashboard on {url}"));
        }
    }
    system.started = Instant::now();
    for i in 0..clients {
        system.clients.push(start_client(&config, i, rate / f64::from(clients))?);
    }
    info!(clients, rate, service, "up");
    notify::ready();
    system.run(args.duration)?;
    let (total, all_told) = system.end()?;
    let seconds = system.started.elapsed().as_secs_f64();
    print(format_args!("{}\n", table::summary(&total, clients, seconds)))?;
    Ok(all_told && total.answered == total.sent)
}

/// The balancer process and its newest status.
struct BalancerProcess {
    kept: SupervisedBalancer,
    status: Arc<Mutex<Status>>,
    reader: Option<JoinHandle<()>>,
}

impl BalancerProcess {
    fn start(config: &Config) -> Result<BalancerProcess> {
        let mut words = command::own_command("balancer", config)?;
        words.extend(["--status-every", "250ms", "--until-stdin-ends"].map(str::to_owned));
        let mut kept = SupervisedBalancer::start(config, words, true).context("cannot start the balancer")?;
        info!(pid = kept.process().id(), "balancer started");
        let stdout = kept.process().take_stdout();
        let mut balancer = BalancerProcess { kept, status: Arc::default(), reader: None };
        balancer.read(stdout);
        Ok(balancer)
    }

    /// Reads the status lines of the balancer in a thread.
    fn read(&mut self, stdout: Option<ChildStdout>) {
        let Some(stdout) = stdout else { return };
        let status = Arc::clone(&self.status);
        self.reader = Some(std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(new) = serde_json::from_str(&line) {
                    *status.lock().expect("no panic while it is held") = new;
                }
            }
        }));
    }

    /// The native pool; an empty one before the first status.
    fn native(&self) -> PoolStatus {
        let status = self.status.lock().expect("no panic while it is held");
        status.native().cloned().unwrap_or_default()
    }

    /// Logs what happened to the balancer; a balancer that ended unexpectedly is restarted.
    fn supervise(&mut self) {
        while let Some(event) = self.kept.supervise() {
            match event {
                supervised_balancer::BalancerEvent::Ended(exit, pause) => {
                    let restart_after = rounded(pause);
                    warn!(exit = exit.to_string(), %restart_after, "balancer ended unexpectedly");
                }
                supervised_balancer::BalancerEvent::NotStarted(why, pause) => {
                    let retry_after = rounded(pause);
                    warn!(error = why.to_string(), %retry_after, "cannot restart the balancer")
                }
                supervised_balancer::BalancerEvent::Followed => {
                    info!(pid = self.kept.process().id(), "another balancer took over")
                }
                supervised_balancer::BalancerEvent::Started(stdout) => {
                    info!(pid = self.kept.process().id(), "balancer started");
                    self.read(stdout);
                }
            }
        }
    }

    fn end(&mut self) {
        self.kept.end(|| false);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join(); // the pipe ends with the process
        }
    }
}

/// A client process that prints its summary when it ends.
struct ClientProcess {
    id: u32,
    process: Process,
    output: JoinHandle<String>,
}

fn start_client(config: &Config, place: u32, rate: f64) -> Result<ClientProcess> {
    let id = config.client.start_id + place;
    let port = config.client.ports.start + place as u16;
    let mut words = command::own_command("client", config)?;
    let options = [("--id", id.to_string()), ("--port", port.to_string()), ("--rate", rate.to_string())];
    words.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    words.extend(["--json", "--until-stdin-ends"].map(str::to_owned));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::start(&mut command).with_context(|| format!("cannot start client {id}"))?;
    let mut stdout = process.take_stdout().expect("it is a pipe");
    let output = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stdout.read_to_string(&mut text); // the received part is parsed below
        text
    });
    Ok(ClientProcess { id, process, output })
}

/// All processes of the system.
struct System {
    supervisor: Supervisor<BackEnd>,
    stop: Stop,
    balancer: BalancerProcess,
    clients: Vec<ClientProcess>,
    events: Vec<String>,
    /// The address of the dashboard, if there is one.
    dashboard: Option<String>,
    quiet: bool,
    started: Instant,
}

impl System {
    /// Runs turns until `count` servers are up.
    fn wait_for_servers(&mut self, count: u32) -> Result<()> {
        let give_up = Instant::now() + START_PATIENCE;
        loop {
            let up = self.balancer.native().up();
            if up >= count as usize || self.stop.is_asked() {
                return Ok(());
            }
            if let Some(exit) = self.balancer.kept.process().poll_exit() {
                bail!("cannot start the balancer: it ended ({exit}); see its log");
            }
            if Instant::now() > give_up {
                bail!("only {up} of {count} servers are up after {}; see the logs", exact(START_PATIENCE));
            }
            self.turn(Duration::from_millis(20))?;
        }
    }

    fn turn(&mut self, patience: Duration) -> Result<()> {
        let due = self.balancer.kept.due().map(|due| due.saturating_duration_since(Instant::now()));
        self.supervisor.turn(due.map_or(patience, |due| due.min(patience)))?;
        self.balancer.supervise();
        for event in self.supervisor.take_events() {
            if event.contains("scale ") || event.contains("ended unexpectedly") {
                let seconds = self.started.elapsed().as_secs_f64();
                self.events.push(format!("{seconds:6.1} s  {event}"));
            }
        }
        Ok(())
    }

    fn run(&mut self, duration: Option<Duration>) -> Result<()> {
        let end = duration.map(|d| self.started + d);
        let mut next_table = self.started + TABLE_EVERY;
        if !self.quiet && std::io::stdout().is_terminal() {
            print(format_args!("\x1b[2J"))?;
        }
        while !self.stop.is_asked() {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                break;
            }
            if now >= next_table {
                next_table += TABLE_EVERY;
                if !self.show_table()? {
                    info!(effect = "stopping", "standard output closed");
                    break;
                }
            }
            let next = end.map_or(next_table, |end| end.min(next_table));
            self.turn(next.saturating_duration_since(now))?;
        }
        Ok(())
    }

    /// Prints the table; false if standard output is closed.
    fn show_table(&self) -> std::io::Result<bool> {
        if self.quiet {
            return Ok(true);
        }
        let seconds = self.started.elapsed().as_secs();
        let mut table = table::render(&self.balancer.native(), seconds, self.clients.len() as u32);
        let shown = self.events.len().saturating_sub(EVENTS_SHOWN);
        self.events[shown..].iter().for_each(|event| table.add(event.clone()));
        // A terminal was cleared for the table, so the address goes with it.
        if let Some(url) = self.dashboard.as_ref().filter(|_| std::io::stdout().is_terminal()) {
            table.add(format!("dashboard on {url}"));
        }
        table::show(&table.text())
    }

    /// Stops the clients first and waits for their last responses. Then it drains the servers, and stops
    /// the balancer last. Returns the clients' totals, and whether every client reported its own.
    fn end(&mut self) -> Result<(Summary, bool)> {
        for client in &mut self.clients {
            client.process.terminate();
        }
        while self.clients.iter_mut().any(|c| c.process.poll_exit().is_none()) && !self.stop.is_asked_twice()
        {
            self.turn(Duration::from_millis(50))?;
        }
        let _ = self.show_table(); // the summary reports the same error after all processes have ended
        let (mut total, mut all_told) = (Summary::default(), true);
        for mut client in self.clients.drain(..) {
            client.process.kill(); // it has ended, or a second signal arrived
            let text = client.output.join().unwrap_or_default();
            match serde_json::from_str::<Summary>(&text) {
                Ok(summary) => add(&mut total, &summary),
                // A client listens for the signal before it sends, so this client had sent nothing.
                Err(_)
                    if client
                        .process
                        .poll_exit()
                        .is_some_and(|exit| exit.signal() == Some(libc::SIGTERM)) => {}
                Err(_) => {
                    all_told = false;
                    warn!(client = client.id, "client ended without a summary");
                    tell(format_args!("lbd: client {} ended without a summary; see its log", client.id));
                }
            }
        }
        self.supervisor.shut_down();
        while !self.supervisor.is_empty() && !self.stop.is_asked_twice() {
            self.turn(Duration::from_millis(50))?;
        }
        self.supervisor.kill_all();
        self.balancer.end();
        let Summary { sent, answered, retried, lost, .. } = total;
        info!(sent, answered, retried, lost, "down");
        Ok((total, all_told))
    }
}

fn add(total: &mut Summary, one: &Summary) {
    total.sent += one.sent;
    total.answered += one.answered;
    total.retried += one.retried;
    total.refused += one.refused;
    total.busy += one.busy;
    total.lost += one.lost;
    total.first_failed += one.first_failed;
    total.latency_us_max = total.latency_us_max.max(one.latency_us_max);
}

impl Drop for System {
    /// Stops all processes, also after an error.
    fn drop(&mut self) {
        for client in &mut self.clients {
            client.process.terminate();
        }
        self.balancer.kept.process().terminate();
    }
}
