//! Whatever ends an import before its time, nothing is left: no output, no process.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tests::helper::beside_this_test;
use tests::place::Place;
use tests::supervised::{END, assert_gone};

use crate::support::{command, import, names, place, qemu_img};

/// A reader that says it has begun, and then says and does nothing.
fn idle_reader(place: &Place) -> String {
    script(place, "idle", "echo '{\"disk\":1048576}'; exec sleep 1000")
}

/// A program in the reader's place.
fn script(place: &Place, name: &str, text: &str) -> String {
    let path = place.dir().join(name);
    // Written by another process: a test that forks meanwhile would keep it open, and it could not be started then.
    let written = std::process::Command::new("/bin/sh")
        .args(["-c", "printf '%s\\n' '#!/bin/sh' \"$2\" >\"$1\"", "sh"])
        .args([path.as_os_str(), text.as_ref()])
        .status();
    assert!(written.expect("there is a shell").success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path.display().to_string()
}

#[test]
fn signals_leave_nothing_behind() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 image 1M");
    let reader = idle_reader(&place);
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut run = command(&place, &["image", "out"])
            .variable("MAYFLY_IMPORT", &reader)
            .on_pipes();
        let processes = run.processes(1);

        run.signal(signal);

        let ended = run.wait_within(END);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_gone(&processes);
        assert!(names(&place, "out").is_empty());
    }
}

#[test]
fn a_killed_import_takes_its_process_with_it() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 image 1M");
    let mut run = command(&place, &["image", "out"])
        .variable("MAYFLY_IMPORT", idle_reader(&place))
        .on_pipes();
    let processes = run.processes(1);

    run.signal(Signal::SIGKILL);

    let _ended = run.wait_within(END);
    assert_gone(&processes);
    // Where files can be without a name, which is where these tests run, it is gone too.
    assert!(names(&place, "out").is_empty());
}

#[test]
fn a_reader_that_dies_or_lies_makes_no_disk() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 image 1M");
    for (name, script_text, because) in [
        ("dies", "kill -KILL $$", "killed by SIGKILL"),
        ("early", "exit 0", "makes no sense"),
        (
            "half",
            "echo '{\"disk\":1048576}'; echo '{\"done\":4096}'",
            "makes no sense",
        ),
        (
            "back",
            "echo '{\"disk\":9}'; echo '{\"done\":8}'; echo '{\"done\":7}'; exec sleep 1000",
            "makes no sense",
        ),
        (
            "large",
            "echo '{\"disk\":99999999999999999}'; exec sleep 1000",
            "makes no sense",
        ),
        ("flood", "exec cat /dev/zero", "makes no sense"),
        ("loud", "exec yes", "makes no sense"),
    ] {
        let reader = script(&place, name, script_text);
        let ended = command(&place, &["image", "out"])
            .variable("MAYFLY_IMPORT", reader)
            .output();

        assert_eq!(ended.code, Some(10), "{name}: {ended:?}");
        assert!(ended.stderr.contains(because), "{name}: {ended:?}");
        assert!(names(&place, "out").is_empty());
    }
    let ended = command(&place, &["image", "out"])
        .variable("MAYFLY_IMPORT", "/nowhere/mayfly-import")
        .output();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("it belongs beside"), "{ended:?}");
}

#[test]
fn a_reader_that_cannot_be_confined_reads_nothing() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 image 1M");
    // A kernel that refuses the last layer but one.
    let text = format!(
        "exec strace -qq -o /dev/null -e inject=landlock_restrict_self:error=EPERM {} \"$@\"",
        beside_this_test("mayfly-import").display()
    );

    let ended = command(&place, &["image", "out"])
        .variable("MAYFLY_IMPORT", script(&place, "bare", &text))
        .output();

    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(
        ended.stderr.contains("a required layer of confinement failed"),
        "{ended:?}"
    );
    assert!(names(&place, "out").is_empty());
}

#[test]
fn an_image_that_changes_meanwhile_is_not_kept() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 image 1M");
    let path = place.dir().join("image");
    let text = format!(
        "printf x >>{}; echo '{{\"disk\":512}}'; echo '{{\"done\":512}}'",
        path.display()
    );

    let ended = command(&place, &["image", "out"])
        .variable("MAYFLY_IMPORT", script(&place, "writes", &text))
        .output();

    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("something writes it"), "{ended:?}");
    assert!(names(&place, "out").is_empty());
}

/// A disk that is larger than what a file may have here.
#[test]
fn a_limit_on_files_is_an_error_and_leaves_nothing() {
    let place = place();
    File::create(place.dir().join("disk"))
        .and_then(|disk| disk.set_len(64 << 20))
        .expect("the place can be written");
    qemu_img(&place, "convert -f raw -O qcow2 disk image");
    let limited = format!(
        "ulimit -f 1024; exec {} \"$@\"",
        tests::helper::beside_this_test("mayfly").display()
    );
    let output = std::process::Command::new("/bin/bash")
        .args(["-c", &limited, "mayfly", "import"])
        .args([place.dir().join("image"), place.dir().join("out")])
        .output()
        .expect("there is a shell");

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("give the output its 64 MiB"), "{said}");
    assert!(names(&place, "out").is_empty());
}

#[test]
fn the_reader_has_the_two_files_and_nothing_else() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 image 1M");
    let text = "ls /proc/self/fd >&2; exit 0";
    let ended = command(&place, &["image", "out"])
        .variable("MAYFLY_IMPORT", script(&place, "shows", text))
        .output();

    let numbers: Vec<_> = ended
        .stderr
        .lines()
        .filter_map(|line| line.rsplit(' ').next())
        .filter(|word| word.parse::<u32>().is_ok())
        .collect();
    // 5 is how ls looks at the directory.
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5"], "{ended:?}");
}

/// Not a promise about time: that the tests' own waiting is not what ends an import.
#[test]
fn a_reader_that_is_stopped_is_waited_for() {
    let place = place();
    qemu_img(&place, "create -q -f qcow2 image 1M");
    let text = "kill -STOP $$; echo '{\"disk\":512}'; echo '{\"done\":512}'";
    let mut run = command(&place, &["image", "out"])
        .variable("MAYFLY_IMPORT", script(&place, "stops", text))
        .on_pipes();
    let [(_, reader)] = run.processes(1)[..] else {
        panic!("there is one process");
    };
    std::thread::sleep(Duration::from_millis(300));
    assert!(run.is_running());

    kill(reader, Signal::SIGCONT).expect("it is ours");

    assert_eq!(run.wait_within(END).code, Some(0));
    assert!(import(&place, &["image", "out"]).stderr.contains("is there already"));
}
