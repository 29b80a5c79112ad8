//! Processes of a site: started in its directory, identified by it, ended with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::wait_until;

/// Directories of the existing sites. A process whose arguments name one was started for that site.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(vec![]);

/// Registers a directory for [`end_everything`].
pub fn remember(folder: &Path) {
    FOLDERS.lock().expect("no panic while it is held").push(folder.to_owned());
}

/// Ends the processes of a directory, and unregisters it.
pub fn forget(folder: &Path) {
    kill_all(folder);
    FOLDERS.lock().expect("no panic while it is held").retain(|other| other != folder);
}

/// Ends all processes of all sites and removes their directories, before this process ends without
/// destructors.
pub fn end_everything() {
    let folders = FOLDERS.lock().map(|folders| folders.clone()).unwrap_or_default();
    for folder in folders {
        kill_all(&folder);
        let _ = std::fs::remove_dir_all(folder); // it is in the directory for temporary files
    }
}

/// Runs twice, since a supervisor can start a process between the listing and its own end.
fn kill_all(folder: &Path) {
    for _ in 0..2 {
        for process in of_folder(folder) {
            signal(process.pid, Signal::KILL);
        }
    }
}

/// Sends a signal; a process that has ended is no error.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// A process by its id and its arguments.
#[derive(Clone, Debug)]
pub struct Seen {
    pub pid: i32,
    words: Vec<String>,
}

impl Seen {
    /// Whether the process is `lbd COMMAND`.
    pub fn is(&self, command: &str) -> bool {
        self.words.get(1).is_some_and(|word| word == command)
    }
}

/// The processes whose arguments name this directory. A process that has ended has no arguments.
pub fn of_folder(folder: &Path) -> Vec<Seen> {
    let folder = folder.display().to_string();
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> =
            line.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        if words.iter().any(|word| word.contains(&folder)) {
            found.push(Seen { pid, words });
        }
    }
    found
}

/// Clock ticks per second in /proc: 100 on every machine (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time that a process has used, user and system, including its ended threads.
pub fn cpu_time(pid: i32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name, in parentheses, may contain any character. utime and stime are the 12th and 13th field after
    // it (proc(5)).
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).context("no name in stat")?;
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

/// A process that this tool started. Its output goes to files.
pub struct Process {
    name: String,
    child: Child,
    exit: Option<ExitStatus>,
    output: PathBuf,
}

impl Process {
    /// Starts `program` with these arguments; its output goes to `NAME.out` and `NAME.err` in the directory.
    pub fn start(program: &Path, words: &[String], folder: &Path, name: &str) -> Result<Process> {
        let output = folder.join(name);
        let file =
            |ending| File::create(output.with_extension(ending)).context("cannot write into the directory");
        let mut command = Command::new(program);
        command.args(words).current_dir(folder).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", folder).env_remove("RUNTIME_DIRECTORY");
        command.stdout(file("out")?).stderr(file("err")?);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Process { name: name.to_owned(), child, exit: None, output })
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&mut self, what: Signal) {
        if self.exit.is_none() {
            signal(self.pid(), what);
        }
    }

    /// The exit status; `None` while the process runs.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().unwrap_or(None);
        }
        self.exit
    }

    /// Returns an error if the process has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.exit() {
            None => Ok(()),
            Some(exit) => bail!("{} has ended ({exit}): {}", self.name, self.stderr()),
        }
    }

    /// Waits for the end of the process, which must be successful.
    pub fn wait_for_good_end(&mut self, patience: Duration) -> Result<()> {
        let what = format!("the end of {} (process {})", self.name, self.pid());
        wait_until(&what, patience, || Ok(self.exit().is_some()))?;
        match self.exit.expect("waited for") {
            exit if exit.success() => Ok(()),
            exit => bail!("{} ended with {exit}: {}", self.name, self.stderr()),
        }
    }

    /// Kills the process (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL);
        let what = format!("the end of {}", self.name);
        wait_until(&what, Duration::from_secs(10), || Ok(self.exit().is_some()))
    }

    /// The standard output of the process so far.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.output.with_extension("out")).unwrap_or_default()
    }

    /// The standard error of the process so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.output.with_extension("err")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit().is_none() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
