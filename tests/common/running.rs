//! A process of a test: its output is read as it comes, and it ends with the test.

#![allow(unsafe_code)] // calls that the standard library does not have

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use lbd::admin::status::{PoolStatus, ServerStatus, Status};
use lbd::daemon::client::Summary;

use super::wait_for;

/// A started process.
pub struct Running {
    name: String,
    child: Child,
    exit: Option<ExitStatus>,
    stdout: Lines,
    stderr: Lines,
}

/// What a process was when it had ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code, or minus the signal that ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Running {
    pub fn start(program: &Path, args: &[&str], dir: &Path) -> Running {
        let mut command = Command::new(program);
        command.args(args).current_dir(dir);
        // What processes leave for their successors stays in the test's folder.
        command.env("XDG_RUNTIME_DIR", dir).env_remove("RUNTIME_DIRECTORY");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", program.display()));
        let stdout = Lines::of(child.stdout.take().expect("it is a pipe"));
        let stderr = Lines::of(child.stderr.take().expect("it is a pipe"));
        Running { name: args.join(" "), child, exit: None, stdout, stderr }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The memory that it holds, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux has it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sends a signal, such as `libc::SIGTERM`. The process was not reaped, so the number is still its.
    pub fn signal(&mut self, signal: i32) {
        if self.exit.is_none() {
            send_signal(self.pid(), signal);
        }
    }

    /// Ends it without a word and waits for its end.
    pub fn kill_now(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// Writes to its standard input and closes that.
    pub fn say(&mut self, text: &str) {
        use std::io::Write;
        let mut stdin = self.child.stdin.take().expect("said once");
        stdin.write_all(text.as_bytes()).expect("it reads");
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    fn wait(&mut self) {
        if self.exit.is_none() {
            let child = &mut self.child;
            let look = || child.try_wait().expect("it is our child");
            let (stdout, stderr) = (&self.stdout, &self.stderr);
            let explain = || explain(stdout, stderr);
            self.exit = Some(wait_for(&format!("the end of `{}`", self.name), look, explain));
        }
    }

    /// Waits for its end; gives all of its output.
    pub fn finish(mut self) -> Finished {
        use std::os::unix::process::ExitStatusExt;
        self.wait();
        let status = self.exit.expect("it has ended");
        let complete = || (self.stdout.is_complete() && self.stderr.is_complete()).then_some(());
        wait_for("the end of its output", complete, || self.explain());
        Finished {
            code: status.code().unwrap_or_else(|| -status.signal().expect("a code or a signal")),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }

    /// Of a client with `--json`: waits for its end; gives its exit code and its figures.
    pub fn summary(self) -> (i32, Summary) {
        let Finished { code, stdout, stderr } = self.finish();
        let summary = serde_json::from_str(&stdout);
        (code, summary.unwrap_or_else(|e| panic!("no summary ({e}) in {stdout:?}, stderr {stderr:?}")))
    }

    /// Of a balancer with `--status-every`: its figures, taken after this call.
    pub fn status(&self) -> Status {
        let shown = self.stdout.count();
        // The balancer may already have been writing the next line.
        let look = || (self.stdout.count() >= shown + 2).then(|| self.last_status()).flatten();
        wait_for("new figures of the balancer", look, || self.explain())
    }

    /// Of a balancer with `--status-every`: waits until its figures are as `wanted`.
    #[track_caller]
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        wait_for(what, || self.last_status().filter(&wanted), || self.explain())
    }

    /// Of a balancer: waits until exactly `servers` servers are registered, and all of them are up.
    #[track_caller]
    pub fn wait_until_up(&self, servers: usize) -> Status {
        self.wait_until(&format!("{servers} servers up"), |status| {
            status.native().is_some_and(|pool| pool.servers.len() == servers && pool.up() == servers)
        })
    }

    /// Of a balancer: waits until what it shows of one server is as `wanted`.
    #[track_caller]
    pub fn wait_for_server(&self, id: u32, what: &str, wanted: impl Fn(&ServerStatus) -> bool) -> Status {
        self.wait_until(&format!("server {id} {what}"), |status| {
            status.native().is_some_and(|pool| pool.servers.iter().any(|s| s.id == id && wanted(s)))
        })
    }

    /// Of a balancer with `--status-every`: its first pool, when that is as `wanted`.
    #[track_caller]
    pub fn pool_when(&self, what: &str, wanted: impl Fn(&PoolStatus) -> bool) -> PoolStatus {
        let mut status = self.wait_until(what, |status| status.pools.first().is_some_and(&wanted));
        status.pools.remove(0)
    }

    /// Of a balancer: asks it to stop; gives the last figures that it prints.
    #[track_caller]
    pub fn stop(mut self) -> Status {
        self.signal(libc::SIGTERM);
        let finished = self.finish();
        assert_eq!(finished.code, 0, "{finished:?}");
        let line = finished.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("no figures ({e}): {finished:?}"))
    }

    /// Waits until it has said this on standard error.
    #[track_caller]
    pub fn wait_for_word(&self, word: &str) {
        wait_for(word, || self.stderr().contains(word).then_some(()), || self.explain());
    }

    fn last_status(&self) -> Option<Status> {
        let line = self.stdout.last()?;
        Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("no status ({e}): {line}")))
    }

    fn explain(&self) -> String {
        explain(&self.stdout, &self.stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.exit.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub fn send_signal(pid: i32, signal: i32) {
    // SAFETY: kill(2) touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

fn explain(stdout: &Lines, stderr: &Lines) -> String {
    format!("last of stdout: {}\nstderr:\n{}", stdout.last().unwrap_or_default(), stderr.text())
}

/// The lines of a pipe, read by a thread as they come.
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Lines {
        let lines = Arc::new(Mutex::new(vec![]));
        let shared = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                shared.lock().expect("no panic while it is held").push(line);
            }
        });
        Lines { lines, reader }
    }

    fn is_complete(&self) -> bool {
        self.reader.is_finished()
    }

    fn count(&self) -> usize {
        self.lines.lock().expect("no panic while it is held").len()
    }

    fn last(&self) -> Option<String> {
        self.lines.lock().expect("no panic while it is held").last().cloned()
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().expect("no panic while it is held");
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}
