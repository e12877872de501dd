//! What the start itself decides: whether the program could be read, and whose `/proc` there is.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Test;
use crate::run::{ORDINARY, command_of, everybody, finish, is_root, layer, starts_as_root};

/// The tests.
pub(crate) const TESTS: &[Test] = &[
    (
        "hidden_from_the_start_where_the_program_cannot_be_read",
        hidden_from_the_start_where_the_program_cannot_be_read,
    ),
    (
        "lives_in_namespaces_where_proc_shows_other_processes",
        lives_in_namespaces_where_proc_shows_other_processes,
    ),
];

/// A copy of this program, gone at the end.
struct Copied(PathBuf);

impl Copied {
    fn with_mode(mode: u32) -> Self {
        let path = std::env::temp_dir().join(format!("mayfly-life-{}-{mode:o}", std::process::id()));
        fs::copy("/proc/self/exe", &path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Self(path)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn hidden_from_the_start_where_the_program_cannot_be_read() {
    // Nobody may read it; that root can all the same is another case.
    let copy = Copied::with_mode(0o111);
    for who in everybody() {
        let program = |path: &Path| finish(command_of(path, who, &["report"]).spawn().unwrap()).report();
        let (readable, unreadable) = (program(Path::new("/proc/self/exe")), program(&copy.0));

        let achieved = |report| layer(report, "hidden from start")["achieved"] == true;
        assert_eq!(
            (achieved(&readable), achieved(&unreadable)),
            (starts_as_root(who), true),
            "{unreadable}"
        );
        // Made by a process that its user may inspect, which this one never was.
        let namespace = |report| layer(report, "user namespace")["achieved"].clone();
        assert_eq!(namespace(&readable), namespace(&unreadable));
    }
}

fn lives_in_namespaces_where_proc_shows_other_processes() {
    if !is_root() {
        println!("  skipped: needs root to make a PID namespace and leave /proc as it is");
        return;
    }
    let copy = Copied::with_mode(0o755);
    let outside = command_of(&copy.0, ORDINARY, &["report"]).spawn().unwrap();
    let inside = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "setpriv", "--clear-groups"])
        .args(["--reuid=65533", "--regid=65533"])
        .arg(&copy.0)
        .args(["child", "report"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let (outside, inside) = (finish(outside).report(), finish(inside).report());

    for name in ["user namespace", "mount namespace", "empty root"] {
        let achieved = |report| layer(report, name)["achieved"].clone();
        assert_eq!(achieved(&inside), achieved(&outside), "{inside}");
    }
}
