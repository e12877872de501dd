//! Helpers with an operator, and what is done with their outputs.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::{Duration, Instant};

use protocol::control::{Answer, Command, SaveFormat, SaveRequest, SaveState, SaveStatus};
use tests::client::{Client, Setup};
use tests::helper::{Helper, HelperBuilder};
use tests::operator::Operator;

/// How long a save may take.
const SAVE: Duration = Duration::from_secs(60);

/// Starts a helper with an operator.
pub(crate) fn operated(helper: HelperBuilder<'_>) -> (Helper, Operator) {
    let (operator, theirs) = Operator::pair();
    (helper.operated(theirs).start(), operator)
}

pub(crate) fn connect(helper: &Helper) -> Client {
    Client::connect(helper.socket(), Setup::default())
}

/// A new file for a save.
pub(crate) fn output(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options.open(path).expect("the place can be written")
}

pub(crate) const RAW: SaveRequest = SaveRequest {
    format: SaveFormat::Raw,
    backing: None,
};

/// A qcow2 file over `base`.
pub(crate) fn delta(base: &Path) -> SaveRequest {
    SaveRequest {
        format: SaveFormat::Qcow2Delta,
        backing: Some(base.to_str().expect("the tests' paths are texts").to_owned()),
    }
}

/// Begins a save. When this returns, the moment is taken.
pub(crate) fn begin(operator: &Operator, request: SaveRequest, output: &impl AsFd) -> Result<(), String> {
    let answer = operator.ask(Command::Save(request), &[output.as_fd()])?;
    assert!(matches!(answer, Answer::Saving { .. }), "{answer:?}");
    Ok(())
}

/// How the save ended.
pub(crate) fn await_end(operator: &Operator) -> SaveStatus {
    let begun = Instant::now();
    loop {
        let save = operator.status().save.expect("a save was begun");
        if save.state != SaveState::Running {
            return save;
        }
        assert!(begun.elapsed() < SAVE, "the save does not end: {save:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Saves to a file of that name beside the base, and returns its path.
pub(crate) fn save(operator: &Operator, request: SaveRequest, path: PathBuf) -> PathBuf {
    begin(operator, request, &output(&path)).expect("the output is as it should be");
    let save = await_end(operator);
    assert_eq!(save.state, SaveState::Done);
    assert_eq!(save.done_bytes, save.total_bytes);
    path
}

pub(crate) fn qemu_img(arguments: &[&str], paths: &[&Path]) {
    let done = Program::new("qemu-img").args(arguments).args(paths).output();
    let done = done.expect("qemu-img is installed (Debian: qemu-utils)");
    assert!(done.status.success(), "qemu-img {arguments:?} {paths:?}: {done:?}");
}

/// Checks that the delta is sound and, over its base, the same disk as the raw image.
pub(crate) fn assert_same(delta: &Path, raw: &Path) {
    qemu_img(&["check", "-f", "qcow2"], &[delta]);
    qemu_img(&["compare", "-f", "qcow2", "-F", "raw"], &[delta, raw]);
    let whole = delta.with_extension("converted");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw"], &[delta, &whole]);
    assert!(
        fs::read(&whole).expect("it was converted") == fs::read(raw).expect("it was saved"),
        "the delta over its base is another disk"
    );
}
