//! `lbd doctor`: prints the findings as text or JSON.

use std::fmt::Write;

use anyhow::Result;
use lbd::doctor::{Finding, Needs, Severity, examine, gather};
use lbd::os::terminal::print;

use crate::args::DoctorArgs;
use crate::shown;

/// Examines this machine; true if there is no problem.
pub fn run(args: &DoctorArgs) -> Result<bool> {
    let needs = Needs::of(&args.common.load()?);
    let findings = examine(&gather(&needs), &needs);
    let problems = count(&findings, Severity::Problem);
    if args.json {
        let all = serde_json::json!({ "problems": problems, "findings": findings });
        print(format_args!("{all}\n"))?;
    } else {
        print(format_args!("{}", render(&findings, shown::has_colours(), args.common.quiet)))?;
    }
    Ok(problems == 0)
}

fn count(findings: &[Finding], level: Severity) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

/// One line per finding, with its commands below. `brief` omits the findings without a problem.
fn render(findings: &[Finding], has_colours: bool, brief: bool) -> String {
    let mut out = String::new();
    let mut line =
        |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("a string takes everything");
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let (mut is_sysctl, shown) = (false, findings.iter().filter(|f| !brief || f.level != Severity::Ok));
    for finding in shown {
        let (colour, end) = match (has_colours, finding.level) {
            (false, _) => ("", ""),
            (true, Severity::Ok) => ("\x1b[32m", "\x1b[0m"),
            (true, Severity::Note) => ("\x1b[33m", "\x1b[0m"),
            (true, Severity::Problem) => ("\x1b[1;31m", "\x1b[0m"),
        };
        let word = match finding.level {
            Severity::Problem => "PROBLEM",
            level => level.name(),
        };
        line(format_args!("{:<width$}  {colour}{word:<7}{end}  {}", finding.check, finding.found));
        for command in &finding.fix {
            is_sysctl |= command.starts_with("sysctl");
            line(format_args!("{:width$}  {:<7}  {command}", "", "fix:"));
        }
    }
    let (problems, notes) = (count(findings, Severity::Problem), count(findings, Severity::Note));
    line(format_args!("problems: {problems}, notes: {notes}, ok: {}", findings.len() - problems - notes));
    if is_sysctl {
        line(format_args!(
            "To keep sysctl settings after a reboot, write NAME=VALUE lines to /etc/sysctl.d/90-lbd.conf"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_aligned_with_their_commands_below() {
        let finding = |check, level, found: &str, fix: &[&str]| Finding {
            check,
            level,
            found: found.to_owned(),
            fix: fix.iter().map(|&command| command.to_owned()).collect(),
        };
        let findings = [
            finding("kernel", Severity::Ok, "6.1", &[]),
            finding("receive buffers", Severity::Problem, "small", &["sysctl -w a=1"]),
            finding("clock", Severity::Note, "slow", &[]),
        ];
        let end = "problems: 1, notes: 1, ok: 1\n\
                   To keep sysctl settings after a reboot, write NAME=VALUE lines to \
                   /etc/sysctl.d/90-lbd.conf\n";
        let bad = "receive buffers  PROBLEM  small\n                 fix:     sysctl -w a=1\n\
                   clock            note     slow\n";
        assert_eq!(render(&findings, false, false), format!("kernel           ok       6.1\n{bad}{end}"));
        assert_eq!(render(&findings, false, true), format!("{bad}{end}"));
        assert!(render(&findings, true, false).contains("\x1b[1;31mPROBLEM\x1b[0m"));
    }
}
