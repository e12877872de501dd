//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::backend::{Kind, program};
use crate::rows;

/// How to use this program.
pub(crate) const USAGE: &str = "\
usage: bench [OPTION]...
       bench --render RESULTS.json DOCS   write figures and chart into DOCS/benchmarks.md and DOCS/benchmarks.svg

  --quick             one short round on a small base (about a minute)
  --rows A,B          only rows whose name begins with A or B: read, touch, fill, rewrite, mixed, seq, cold, spawn, memory,
                      grow, floors, with more of the name as in read-d32 or seq-write; or all of d1, d32, eventfd, polling
  --backends A,B      only mayfly, mayfly-plain, qsd-threads, qsd-io_uring, qsd-raw, nbdkit-cow
  --rounds N          [default: 5]
  --window-ms N       how long a rate is measured [default: 500]
  --base-mib N        size of the base, a power of two from 64 on [default: 4096]
  --grow-gib A,B      how much is made dirty for the rows about growth: 1, 4, 16 [default: 1,4]
  --dir DIR           where base and overlays are made, on a disk [default: $TMPDIR or /var/tmp]
  --json FILE         where results go [default: bench.json beside this program]
  --chart FILE        where a chart goes [default: bench.svg beside this program]";

/// What to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Measure.
    Measure(Options),
    /// Say how this program is used.
    Help,
    /// Put results into documentation.
    Render { results: PathBuf, docs: PathBuf },
}

/// How to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) rounds: u64,
    pub(crate) window: Duration,
    pub(crate) base_len: u64,
    pub(crate) rows: Vec<&'static str>,
    pub(crate) floors: bool,
    pub(crate) backends: Vec<Kind>,
    pub(crate) grow: Vec<u64>,
    pub(crate) dir: PathBuf,
    pub(crate) json: PathBuf,
    pub(crate) chart: PathBuf,
}

/// Reads the command line; what is wrong with it otherwise.
pub(crate) fn parse(words: &[String]) -> Result<Order, String> {
    if let [first, results, docs] = words
        && first == "--render"
    {
        return Ok(Order::Render {
            results: results.into(),
            docs: docs.into(),
        });
    }
    if words.iter().any(|word| word == "--help") {
        return Ok(Order::Help);
    }
    let mut options = Options::default();
    let mut parts: Vec<String> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
        match word.as_str() {
            "--quick" => options.be_quick(),
            "--rows" => parts = list(value()?),
            "--backends" => options.backends = kinds(value()?)?,
            "--rounds" => options.rounds = number(value()?)?,
            "--window-ms" => options.window = Duration::from_millis(number(value()?)?),
            "--base-mib" => options.base_len = number::<u64>(value()?)? << 20,
            "--grow-gib" => options.grow = list::<String>(value()?).iter().map(number).collect::<Result<_, _>>()?,
            "--dir" => options.dir = value()?.into(),
            "--json" => options.json = value()?.into(),
            "--chart" => options.chart = value()?.into(),
            _ => return Err(format!("what is {word}?")),
        }
    }
    options.choose(&parts);
    options.check()?;
    Ok(Order::Measure(options))
}

impl Default for Options {
    fn default() -> Self {
        let beside = |name: &str| program("bench").map_or_else(|_| name.into(), |own| own.with_file_name(name));
        let dir = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        Self {
            rounds: 5,
            window: Duration::from_millis(500),
            base_len: 4 << 30,
            rows: Vec::new(),
            floors: true,
            backends: Kind::here(),
            grow: vec![1, 4],
            dir: dir.map_or_else(|| "/var/tmp".into(), PathBuf::from),
            json: beside("bench.json"),
            chart: beside("bench.svg"),
        }
    }
}

impl Options {
    fn be_quick(&mut self) {
        self.rounds = 1;
        self.window = Duration::from_millis(200);
        self.base_len = 1 << 30;
        self.grow = vec![1];
    }

    /// The rows that `parts` name; all if there are none.
    fn choose(&mut self, parts: &[String]) {
        let is_chosen = |name: &str| parts.is_empty() || parts.iter().any(|part| is_named(name, part));
        let grown = |id: &str| match id.strip_prefix("grow-").and_then(|rest| rest.split('-').next()) {
            Some(gib) => gib == "huge" || self.grow.iter().any(|grow| grow.to_string() == gib),
            None => true,
        };
        let ids = rows::ALL.iter().map(|row| row.id);
        self.rows = ids.filter(|id| is_chosen(id) && grown(id)).collect();
        self.floors = is_chosen("floors");
    }

    fn check(&self) -> Result<(), String> {
        if self.rounds == 0 || self.window.is_zero() {
            return Err("without a round and some time there is nothing to measure".to_owned());
        }
        if !self.base_len.is_power_of_two() || self.base_len < 64 << 20 {
            return Err("--base-mib takes a power of two, at least 64".to_owned());
        }
        if self.grow.iter().any(|gib| ![1, 4, 16].contains(gib)) {
            return Err("--grow-gib takes 1, 4, 16".to_owned());
        }
        if self.rows.is_empty() && !self.floors {
            return Err("no row has such a name".to_owned());
        }
        Ok(())
    }
}

/// Whether a row's name begins with `part`, or has it where depth and mode are.
fn is_named(name: &str, part: &str) -> bool {
    let is_kind = ["d1", "d32", "eventfd", "polling"]
        .iter()
        .any(|kind| part.starts_with(kind));
    name.starts_with(part) || is_kind && name.contains(&format!("-{part}"))
}

fn list<T: From<String>>(text: &str) -> Vec<T> {
    text.split(',').map(|word| word.to_owned().into()).collect()
}

fn number<T: FromStr>(text: impl AsRef<str>) -> Result<T, String> {
    let text = text.as_ref();
    text.parse().map_err(|_| format!("{text} is no number to be used here"))
}

fn kinds(text: &str) -> Result<Vec<Kind>, String> {
    let find = |name: String| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| format!("there is no backend {name}"))
    };
    list(text).into_iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(line: &str) -> Result<Options, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&words)? {
            Order::Measure(options) => Ok(options),
            Order::Render { .. } | Order::Help => Err("that measures nothing".to_owned()),
        }
    }

    #[test]
    fn rows_are_chosen_by_the_beginning_of_their_name() {
        let options = measure("--rows read-d1,spawn").expect("there are such rows");

        assert_eq!(
            options.rows,
            ["read-d1-eventfd", "read-d1-polling", "spawn", "spawn-overlay"]
        );
        assert!(!options.floors);
    }

    #[test]
    fn rows_are_chosen_by_depth_and_mode() {
        let options = measure("--rows d1-polling").expect("there are such rows");

        assert_eq!(
            options.rows,
            ["read-d1-polling", "touch-d1-polling", "rewrite-d1-polling"]
        );
    }

    #[test]
    fn rows_about_growth_follow_the_option() {
        let options = measure("--rows grow --grow-gib 1,16").expect("there are such rows");

        assert!(options.rows.contains(&"grow-16-read") && options.rows.contains(&"grow-huge-read"));
        assert!(!options.rows.contains(&"grow-4-read"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "--rounds 0",
            "--rounds many",
            "--base-mib 100",
            "--grow-gib 2",
            "--rows nothing",
            "--backends nobody",
            "--rounds",
            "--slow",
        ] {
            assert!(measure(line).is_err(), "{line}");
        }
    }
}
