//! Logs: one file per component with a maximum size, or standard error, written by a thread of its own.
//!
//! Lines pass through a bounded queue. If the queue is full, lines are dropped and counted, so a full
//! disk or a slow reader never stalls the data path. The file is rotated once: `x.log` and `x.log.1`
//! together stay below twice the limit. After [`reopen`] the log continues in a new file of the same name, so
//! that other programs can rotate it (logrotate(8)).

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use super::log_fields::LogFields;
use super::regular_file;

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// A file per component in the directory of the logs.
    Files,
    /// Standard error.
    Stderr,
    /// Standard error for systemd-journald: each line begins with its priority (sd-daemon(3)) and has no
    /// time, since the journal adds it.
    Journald,
    /// Nowhere.
    Off,
}

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Where the log goes.
    pub target: LogTarget,
    /// Directory of the logs.
    pub dir: PathBuf,
    /// Lines below this level are dropped.
    pub level: LevelFilter,
    /// Whether each line is a JSON object instead of text.
    pub json: bool,
    /// Maximum size of a log file in bytes; a larger one is rotated.
    pub size_max: u64,
}

/// Keeps the log running. Dropping the guard writes the queued lines.
pub struct Guard {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
}

impl Guard {
    /// Lines dropped so far because the disk was slower than the log.
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Maximum queued lines.
const QUEUED_LINES_MAX: usize = 8_192;

/// Changes the log level of the process.
static LEVEL: OnceLock<Box<dyn Fn(LevelFilter) + Send + Sync>> = OnceLock::new();

/// Whether the log file is to be opened again.
static REOPEN: AtomicBool = AtomicBool::new(false);

/// Makes the next line go to a new file if the log's file was renamed or removed.
pub fn reopen() {
    REOPEN.store(true, Ordering::Relaxed);
}

/// Changes the log level. No effect without a log.
pub fn set_level(level: LevelFilter) {
    if let Some(set) = LEVEL.get() {
        set(level);
    }
}

/// Starts this process's log, with target `Files` in `DIR/name`, for example `balancer/balancer.log`. Once
/// per process.
pub fn init(settings: &LogSettings, name: &str) -> io::Result<Guard> {
    let output: Box<dyn Write + Send> = match settings.target {
        LogTarget::Files => Box::new(BoundedFile::open(settings.dir.join(name), settings.size_max)?),
        LogTarget::Stderr | LogTarget::Journald => Box::new(io::stderr()),
        LogTarget::Off => Box::new(io::sink()),
    };
    let (writer, worker) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES_MAX).finish(output);
    let dropped = writer.error_counter();
    let (level, handle) = reload::Layer::new(settings.level);
    let _ = LEVEL.set(Box::new(move |level| {
        let _ = handle.reload(level); // it fails only after the subscriber was dropped
    }));
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).with_target(false);
    let layer = layer.fmt_fields(LogFields);
    let registry = tracing_subscriber::registry().with(level);
    match (settings.target, settings.json) {
        (LogTarget::Journald, true) => registry.with(layer.json().map_event_format(WithPriority)).init(),
        (LogTarget::Journald, false) => {
            let layer = layer.without_time().with_level(false);
            registry.with(layer.map_event_format(WithPriority)).init();
        }
        (_, true) => registry.with(layer.json()).init(),
        (_, false) => registry.with(layer).init(),
    }
    Ok(Guard { _worker: worker, dropped })
}

/// Writes the priority of a line before it, as systemd-journald reads it from standard error.
struct WithPriority<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        })?;
        self.0.format_event(context, writer, event)
    }
}

/// A log file that is renamed to `.1` when it is full.
struct BoundedFile {
    path: PathBuf,
    file: File,
    len: u64,
    len_max: u64,
}

impl BoundedFile {
    fn open(path: PathBuf, len_max: u64) -> io::Result<Self> {
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("cannot write the log {}: {e}", path.display()));
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(named)?;
        }
        let file = regular_file::append(&path).map_err(named)?;
        let len = file.metadata().map_err(named)?.len();
        Ok(BoundedFile { file, len, len_max, path })
    }

    /// Continues in the file that has the name now, or in a new one.
    fn reopen(&mut self) -> io::Result<()> {
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        self.file = regular_file::append(&self.path)?;
        self.len = self.file.metadata()?.len();
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        std::fs::rename(&self.path, aside)?;
        self.file = regular_file::append(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

impl Write for BoundedFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if REOPEN.swap(false, Ordering::Relaxed) {
            self.reopen()?;
        }
        if self.len > 0 && self.len + line.len() as u64 > self.len_max {
            self.rotate()?;
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_never_takes_more_than_twice_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("servers/server_1.log");
        let mut file = BoundedFile::open(path.clone(), 1_000).unwrap();
        for i in 0..500 {
            writeln!(file, "line {i}").unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("line 499\n") && text.len() <= 1_000);
        let total: u64 = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total <= 2_000);
    }

    #[test]
    fn an_existing_log_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        for line in ["one", "two"] {
            writeln!(BoundedFile::open(path.clone(), 1_000).unwrap(), "{line}").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_log_that_cannot_be_written_is_named() {
        let error = BoundedFile::open("/proc/nowhere/x.log".into(), 1_000).err().unwrap();
        assert!(error.to_string().contains("/proc/nowhere/x.log"), "{error}");
    }
}
