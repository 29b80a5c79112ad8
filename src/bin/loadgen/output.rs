//! Destinations of a report: files, standard output and the terminal.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use lbd::load::pages::{self, MachineInfo};
use lbd::load::{LoadReport, write_csv, write_hgrm, write_interval_log};
use lbd::os::terminal::{print, tell};
use lbd::report::page::Page;
use serde::Serialize;

use crate::args::Args;
use crate::sink::Sink;

/// The requested destinations.
pub struct Outputs<'a> {
    json: Option<Sink<'a>>,
    csv: Option<Sink<'a>>,
    hdr: Option<Sink<'a>>,
    hgrm: Option<Sink<'a>>,
    page: Option<Sink<'a>>,
    /// An output that is written already went to standard output.
    stdout_is_taken: bool,
    quiet: bool,
}

/// Problems of single outputs; each output is written regardless of the others.
#[derive(Debug, Default)]
pub struct Unwritten(pub Vec<String>);

impl Unwritten {
    fn note(&mut self, written: Result<()>) {
        if let Err(error) = written {
            self.0.push(format!("{error:#}"));
        }
    }
}

impl<'a> Outputs<'a> {
    /// Opens the destinations before the load, so that a path that cannot be written fails early. What they
    /// hold stays until there are results.
    pub fn open(args: &'a Args) -> Result<Self> {
        let open = |path: &'a Option<PathBuf>| path.as_deref().map(Sink::open).transpose();
        let outputs = Outputs {
            json: open(&args.json)?,
            csv: open(&args.csv)?,
            hdr: open(&args.hdr)?,
            hgrm: open(&args.hgrm)?,
            page: open(&args.judgement.report)?,
            stdout_is_taken: false,
            quiet: args.quiet,
        };
        Sink::check_distinct(&outputs.sinks().collect::<Vec<_>>())?;
        Ok(outputs)
    }

    fn sinks(&self) -> impl Iterator<Item = &Sink<'a>> {
        [&self.json, &self.csv, &self.hdr, &self.hgrm, &self.page].into_iter().flatten()
    }

    /// Writes the report of a run to each destination, and the table unless standard output is taken.
    /// `holding`: conditions that hold.
    pub fn write(mut self, report: &LoadReport, holding: &[String]) -> Unwritten {
        let (csv, hdr, hgrm) = (self.csv.take(), self.hdr.take(), self.hgrm.take());
        self.stdout_is_taken |= csv.iter().chain(&hdr).chain(&hgrm).any(Sink::is_stdout);
        let mut unwritten = Unwritten::default();
        if let Some(sink) = csv {
            unwritten.note(sink.write(write_csv(&report.series).as_bytes()));
        }
        if let Some(sink) = hdr {
            let mut log = vec![];
            let made = write_interval_log(report, &mut log).context("the report is damaged");
            unwritten.note(made.and_then(|()| sink.write(&log)));
        }
        if let Some(sink) = hgrm {
            let latency =
                report.histograms.latency.decode().map_err(|why| anyhow!("the report is damaged: {why}"));
            unwritten.note(latency.and_then(|latency| sink.write(write_hgrm(&latency).as_bytes())));
        }
        let page = |machine: &MachineInfo| pages::of_run(report, holding, machine);
        unwritten.0.extend(self.write_judged(report, &report.to_string(), page).0);
        unwritten
    }

    /// Writes the result of several runs: as JSON, as a page, and as text unless standard output is taken.
    pub fn write_judged(
        self,
        judged: &impl Serialize,
        text: &str,
        page: impl FnOnce(&MachineInfo) -> Result<Page, String>,
    ) -> Unwritten {
        let mut unwritten = Unwritten::default();
        let to_stdout = self.stdout_is_taken || self.sinks().any(Sink::is_stdout);
        if let Some(sink) = self.json {
            let made = serde_json::to_string_pretty(judged).context("the report cannot be written as JSON");
            unwritten.note(made.and_then(|text| sink.write(format!("{text}\n").as_bytes())));
        }
        if let Some(sink) = self.page {
            let made = page(&machine()).map_err(|why| anyhow!("the report is damaged: {why}"));
            unwritten.note(made.and_then(|page| sink.write(page.to_html().as_bytes())));
        }
        match (self.quiet, to_stdout) {
            (true, _) => {}
            (false, true) => tell(format_args!("{text}")),
            (false, false) => unwritten.note(print(format_args!("{text}")).map(drop).map_err(Into::into)),
        }
        unwritten
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
