//! The chart of the README, docs/cost.svg: `tools/cost-chart` draws it from docs/BENCHMARKS.md.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `tools/cost-chart --stdout` does with more arguments, or `None` and a message without python3.
fn cost_chart(more: &[&str]) -> Option<Output> {
    let mut python = Command::new("python3");
    match python.arg("-B").arg(project("tools/cost-chart")).arg("--stdout").args(more).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: there is no python3 on this machine");
            None
        }
        Err(error) => panic!("python3: {error}"),
    }
}

#[test]
fn the_chart_shows_the_values_of_the_benchmarks() {
    let Some(output) = cost_chart(&[]) else { return };
    assert!(output.status.success(), "{output:?}");
    let drawn = String::from_utf8(output.stdout).unwrap();
    let committed = std::fs::read_to_string(project("docs/cost.svg")).unwrap();
    assert!(drawn == committed, "docs/cost.svg differs from docs/BENCHMARKS.md: run tools/cost-chart");
    assert!(drawn.contains("prefers-color-scheme: dark"));
    for name in ["lbd, dns", "lbd, datagram", "dnsdist", "Envoy", "nginx"] {
        assert!(drawn.contains(&format!(">{name}</text>")), "{name} is not in the chart");
    }
}

#[test]
fn a_changed_value_changes_the_chart_and_a_missing_table_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let document = dir.path().join("benchmarks.md");
    let table =
        "| | requests/s, 256 in flight | CPU us/req |\n|---|---|---|\n| dnsdist | 82,231 | **12.5** |\n";
    std::fs::write(&document, table).unwrap();
    let from = ["--from", document.to_str().unwrap()];
    let Some(output) = cost_chart(&from) else { return };
    let drawn = String::from_utf8(output.stdout).unwrap();
    assert!(drawn.contains(">12.50</text>") && drawn.contains(">82,231/s</text>"), "{drawn}");

    std::fs::write(&document, table.replace("dnsdist", "another")).unwrap();
    let refused = cost_chart(&from).unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains("no table has dnsdist"), "{message}");
}
