//! Destinations of a report: files, standard output and the terminal.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use lbd::load::pages::{self, MachineInfo};
use lbd::load::{LoadReport, write_csv, write_interval_log};
use lbd::os::terminal::{print, tell};
use lbd::report::page::Page;
use serde::Serialize;

use crate::args::Args;

/// A file or standard output.
enum Sink<'a> {
    Stdout,
    File(&'a Path, File),
}

impl<'a> Sink<'a> {
    fn open(path: Option<&'a Path>) -> Result<Option<Self>> {
        match path {
            None => Ok(None),
            Some(path) if path == Path::new("-") => Ok(Some(Sink::Stdout)),
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Ok(Some(Sink::File(path, file)))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Sink::Stdout => drop(print(format_args!("{}", String::from_utf8_lossy(bytes)))?),
            Sink::File(path, file) => {
                file.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// The requested destinations.
pub struct Outputs<'a> {
    json: Option<Sink<'a>>,
    csv: Option<Sink<'a>>,
    hdr: Option<Sink<'a>>,
    page: Option<Sink<'a>>,
    quiet: bool,
}

impl<'a> Outputs<'a> {
    /// Opens the destinations before the load, so that a path that cannot be written fails early.
    pub fn open(args: &'a Args) -> Result<Self> {
        let outputs = Outputs {
            json: Sink::open(args.json.as_deref())?,
            csv: Sink::open(args.csv.as_deref())?,
            hdr: Sink::open(args.hdr.as_deref())?,
            page: Sink::open(args.judgement.report.as_deref())?,
            quiet: args.quiet,
        };
        ensure!(outputs.to_stdout() <= 1, "only one of --json, --csv, --hdr and --report can be `-`");
        Ok(outputs)
    }

    fn to_stdout(&self) -> usize {
        [&self.json, &self.csv, &self.hdr, &self.page]
            .into_iter()
            .filter(|sink| matches!(sink, Some(Sink::Stdout)))
            .count()
    }

    /// Writes the report of a run to each destination, and the table unless standard output is taken.
    /// `holding`: conditions that hold.
    pub fn write(mut self, report: &LoadReport, holding: &[String]) -> Result<()> {
        if let Some(sink) = &mut self.csv {
            sink.write(write_csv(&report.series).as_bytes())?;
        }
        if let Some(sink) = &mut self.hdr {
            let mut log = vec![];
            write_interval_log(report, &mut log)?;
            sink.write(&log)?;
        }
        self.write_judged(report, &report.to_string(), |machine| pages::of_run(report, holding, machine))
    }

    /// Writes the result of several runs: as JSON, as a page, and as text unless standard output is taken.
    pub fn write_judged(
        mut self,
        judged: &impl Serialize,
        text: &str,
        page: impl FnOnce(&MachineInfo) -> Result<Page, String>,
    ) -> Result<()> {
        let to_stdout = self.to_stdout() > 0;
        if let Some(sink) = &mut self.json {
            sink.write(format!("{}\n", serde_json::to_string_pretty(judged)?).as_bytes())?;
        }
        if let Some(sink) = &mut self.page {
            let page = page(&machine()).map_err(|why| anyhow!("the report is damaged: {why}"))?;
            sink.write(page.to_html().as_bytes())?;
        }
        match (self.quiet, to_stdout) {
            (true, _) => {}
            (false, true) => tell(format_args!("{text}")),
            (false, false) => drop(print(format_args!("{text}"))?),
        }
        Ok(())
    }
}

/// The machine that this program runs on.
fn machine() -> MachineInfo {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    MachineInfo {
        command: ["loadgen".to_owned()]
            .into_iter()
            .chain(std::env::args().skip(1).map(quoted))
            .collect::<Vec<_>>()
            .join(" "),
        kernel: kernel.trim().to_owned(),
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
    }
}

/// Quotes a word for a shell.
fn quoted(word: String) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=+.,:/@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        for (word, wanted) in [
            ("--rate", "--rate"),
            ("p99<2ms", "'p99<2ms'"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
            ("a b", "'a b'"),
        ] {
            assert_eq!(quoted(word.to_owned()), wanted);
        }
    }
}
