//! `make bench` keeps working: a tiny run gives every row a number. No time is looked at.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use tests::helper::beside_this_test;

/// A directory of its own on a disk, in which the benchmark must leave nothing but what it was asked for.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = PathBuf::from(format!("/var/tmp/mayfly-test-bench-{name}-{}", std::process::id()));
        fs::create_dir(&dir).expect("everybody may write to /var/tmp");
        Self(dir)
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        Command::new(beside_this_test("bench"))
            .arg("--dir")
            .arg(&self.0)
            .args(["--json", &self.file("bench.json"), "--chart", &self.file("bench.svg")])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the benchmark is built (cargo build -p tests --bin bench)")
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn left(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.0).expect("the directory is ours");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("it can be listed").file_name();
        entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A run on a small base, and its results.
fn measure(place: &Place, rows: &str, backends: &str) -> Value {
    let small = ["--rounds", "1", "--window-ms", "5", "--base-mib", "64"];
    let chosen = ["--rows", rows, "--backends", backends];
    let output = place.bench(&[&small[..], &chosen[..]].concat());
    assert!(output.status.success(), "{output:?}");
    let json = fs::read_to_string(place.file("bench.json")).expect("results were written");
    let expected = ["bench.json", "bench.svg"].map(str::to_owned);
    assert_eq!(place.left(), expected.into(), "nothing else is left");
    serde_json::from_str(&json).expect("results are JSON")
}

fn median(results: &Value, row: &str, backend: &str) -> Option<f64> {
    let outcomes = results["outcomes"].as_array().expect("results have outcomes");
    let outcome = outcomes.iter().find(|outcome| outcome["id"] == row)?;
    let figures = outcome["figures"].as_array().expect("outcomes have figures");
    let figure = figures.iter().find(|figure| figure["backend"] == backend)?;
    figure["value"]["median"].as_f64()
}

#[test]
fn every_row_gets_a_number() {
    let place = Place::new("rows");

    let results = measure(
        &place,
        "read,touch,fill,rewrite,mixed,seq,cold,spawn,memory,floors",
        "mayfly,mayfly-plain",
    );

    let outcomes = results["outcomes"].as_array().expect("results have outcomes");
    // An ordinary user sees neither memory nor disk of a confined process.
    let hidden = if nix::unistd::geteuid().is_root() { 0 } else { 3 };
    assert_eq!(outcomes.len(), 29 - hidden, "{results}");
    for outcome in outcomes {
        let row = outcome["id"].as_str().expect("an outcome has a name");
        for backend in ["mayfly", "mayfly-plain"] {
            let median = median(&results, row, backend);
            assert!(
                median.is_some_and(|number| number > 0.0),
                "{backend} in {row}: {median:?}"
            );
        }
    }
    assert_eq!(results["floors"].as_array().map(Vec::len), Some(6));
}

#[test]
fn peers_are_driven_the_same_way_and_results_become_documentation() {
    let place = Place::new("peers");

    let results = measure(&place, "d32-eventfd,spawn", "mayfly,qsd-threads,qsd-raw,nbdkit-cow");

    for row in ["read-d32-eventfd", "fill-d32-eventfd", "spawn"] {
        let median = median(&results, row, "qsd-threads");
        assert!(median.is_some_and(|number| number > 0.0), "{row}: {median:?}");
    }
    for other in ["qsd-raw", "nbdkit-cow"] {
        for row in ["read-d32-eventfd", "rewrite-d32-eventfd"] {
            let median = median(&results, row, other);
            assert!(median.is_some_and(|number| number > 0.0), "{other}, {row}: {median:?}");
        }
    }
    let page = place.0.join("benchmarks.md");
    // Not read where it is: another user may not be let there.
    fs::write(&page, include_str!("../../docs/benchmarks.md")).expect("the directory is ours");
    let rendered = Command::new(beside_this_test("bench"))
        .args(["--render", &place.file("bench.json")])
        .arg(&place.0)
        .status();
    assert!(rendered.is_ok_and(|status| status.success()));
    let text = fs::read_to_string(&page).expect("the page is still there");
    assert!(text.contains("| random read 4 KiB, depth 32"), "{text}");
    let chart = fs::read_to_string(place.0.join("benchmarks.svg")).expect("there is a chart");
    assert!(chart.starts_with("<svg") && chart.ends_with("</svg>\n"), "{chart}");
}

#[test]
fn unknown_arguments_are_refused() {
    let place = Place::new("usage");

    let output = place.bench(&["--frobnicate"]);

    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage:"), "{output:?}");
    assert!(place.left().is_empty());
}
