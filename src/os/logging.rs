//! Logs: one file per component with a maximum size, written by a thread of its own.
//!
//! Lines pass through a bounded queue. If the queue is full, lines are dropped and counted, so a full
//! disk or a slow reader never stalls the data path. The file is rotated once: `x.log` and `x.log.1`
//! together stay below twice the limit.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct LogSettings {
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

/// Changes the log level. No effect without a log.
pub fn set_level(level: LevelFilter) {
    if let Some(set) = LEVEL.get() {
        set(level);
    }
}

/// Starts this process's log in `DIR/name`, for example `balancer/balancer.log`. Once per process.
pub fn init(settings: &LogSettings, name: &str) -> io::Result<Guard> {
    let file = BoundedFile::open(settings.dir.join(name), settings.size_max)?;
    let (writer, worker) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES_MAX).finish(file);
    let dropped = writer.error_counter();
    let (level, handle) = reload::Layer::new(settings.level);
    let _ = LEVEL.set(Box::new(move |level| {
        let _ = handle.reload(level); // it fails only after the subscriber was dropped
    }));
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).with_target(false);
    let registry = tracing_subscriber::registry().with(level);
    if settings.json {
        registry.with(layer.json()).init();
    } else {
        registry.with(layer).init();
    }
    Ok(Guard { _worker: worker, dropped })
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
        let file = append(&path).map_err(named)?;
        let len = file.metadata().map_err(named)?.len();
        Ok(BoundedFile { file, len, len_max, path })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        std::fs::rename(&self.path, aside)?;
        self.file = append(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Write for BoundedFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
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
