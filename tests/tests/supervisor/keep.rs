//! What is kept at the end of a run, or reset between two boots, and who else may give orders meanwhile.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use tests::bare;
use tests::ctl::Ctl;
use tests::helper::beside_this_test;
use tests::payload::{Mode, Payload};
use tests::place::Place;
use tests::require;
use tests::require::private_mount_command;
use tests::supervised::{END, assert_gone};

use crate::support::{DISK, shell, turn};

fn program() -> Payload {
    Payload::new(Mode::Protected).print("hello\n")
}

#[test]
fn every_disk_is_saved_under_its_name_however_the_guest_ends() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 60);
    let out = place.dir().join("out.raw");
    let on_exit = format!("--on-exit=save={}", out.display());
    for (program, disks, code, names) in [
        (program().power_off(), 1, 0, &["out.raw"][..]),
        (program().crash(), 2, 13, &["out-vda.raw", "out-vdb.raw"]),
    ] {
        let ended = bare::run(&place, "kvm", disks, &program).and([&on_exit]).output();

        assert_eq!(ended.code, Some(code), "{ended:?}");
        for name in names {
            let kept = fs::read(place.dir().join(name)).expect("the disk has a file");
            assert!(kept == place.content(), "{name}");
        }
    }
    let refused = bare::run(&place, "kvm", 1, &program().power_off())
        .and([&on_exit])
        .output();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("out.raw is there already"), "{refused:?}");
}

/// The disk is large enough for the save not to be done before the signal.
#[test]
fn a_signal_calls_the_save_at_the_end_off_and_a_second_one_waits_for_no_helper() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(512, 64);
    let (vast, out) = (place.dir().join("vast"), place.dir().join("out"));
    fs::create_dir(&out).unwrap();
    fs::File::create_new(&vast).unwrap().set_len(1 << 40).unwrap();
    let words = [
        "--verbose".to_owned(),
        format!("--disk={}", vast.display()),
        format!("--on-exit=save={}", out.join("x.raw").display()),
    ];
    for (signals, code) in [
        (&[Signal::SIGTERM][..], Some(17)),
        (&[Signal::SIGINT], Some(17)),
        (&[Signal::SIGTERM, Signal::SIGINT], Some(17)),
        (&[Signal::SIGKILL], None),
    ] {
        let mut run = bare::run(&place, "kvm", 0, &program().power_off())
            .and(&words)
            .on_pipes();
        run.wait_for_said("save 1 began", END);
        let processes = run.processes(1);
        if signals.len() > 1 {
            kill(run.process("blk-helper"), Signal::SIGSTOP).unwrap();
        }

        signals.iter().for_each(|signal| run.signal(*signal));

        let ended = run.wait_within(END);
        assert_eq!(ended.code, code, "{signals:?} {ended:?}");
        // A helper that does not say what was written is not trusted to have nothing.
        let said = match signals.len() {
            1 => "called off: vda (vast) not saved",
            _ => "what the guest wrote to vda (vast) is lost",
        };
        assert_eq!(ended.stderr.contains(said), code.is_some(), "{ended:?}");
        assert_gone(&processes);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "something is left");
    }
    fs::remove_file(vast).unwrap();
}

#[test]
fn what_cannot_be_saved_has_a_code_of_its_own() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 61);
    let out = place.dir().join("out");
    fs::create_dir(&out).unwrap();
    let on_exit = format!("--on-exit=save={}", out.join("x.raw").display());
    let mut run = bare::run(&place, "kvm", 1, &program().wait_for_key().power_off())
        .and([on_exit])
        .on_pipes();
    run.wait_for("hello\n", END);

    fs::remove_dir(&out).unwrap();
    run.type_in("x");

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(17), "{ended:?}");
    assert!(ended.stderr.contains("cannot open the directory"), "{ended:?}");
    assert!(ended.stderr.contains("is lost"), "{ended:?}");
}

#[test]
fn what_could_not_be_kept_is_refused_before_anything_starts() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 66);
    let linked = place.dir().join("linked.raw");
    fs::hard_link(place.base(), &linked).unwrap();
    for (on_exit, why) in [
        ("--on-exit=save=/nowhere/x.raw", "cannot open the directory /nowhere"),
        ("--on-exit=save=/proc/x.raw", "cannot create /proc/"),
        ("--on-exit=commit", "several names (hard links)"),
    ] {
        for dry in [&[][..], &["--dry-run"]] {
            let run = bare::run(&place, "qemu", 1, &program().power_off());
            let ended = run.and([on_exit]).and(dry).output();

            assert_eq!(ended.code, Some(2), "{ended:?}");
            assert!(ended.stderr.contains("disk vda (base.raw): "), "{ended:?}");
            assert!(ended.stderr.contains(why), "{ended:?}");
            assert!(!ended.stderr.contains("starting a guest"), "{ended:?}");
            assert_eq!(ended.stdout, "");
        }
    }
    fs::remove_file(linked).unwrap();
    // In a file of half the disk's length at most, what is written at the end has no place.
    for on_exit in [
        format!("--on-exit=save={}", place.dir().join("out").display()),
        "--on-exit=commit".into(),
    ] {
        let words = ["--accel=qemu", "--kernel=k", "--dry-run", &on_exit];
        let ended = Command::new("sh")
            .args([
                "-c",
                r#"ulimit -f "$1" && shift && exec "$@""#,
                "sh",
                &(DISK / 1024).to_string(),
            ])
            .arg(beside_this_test("mayfly"))
            .arg("run")
            .args(words)
            .arg(format!("--disk={}", place.base().display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains("cannot have a file of that size"), "{said}");
    }
    let run = |words: &[&str]| {
        let run = bare::run(&place, "qemu", 2, &program().power_off());
        run.and(words).output()
    };
    let ended = run(&["--on-exit=commit"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("disk vdb (base.raw): its base is also"),
        "{ended:?}"
    );
    let ended = run(&["--on-exit=ask", "--dry-run"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(
        ended.stderr.matches("commit will not be possible").count(),
        1,
        "{ended:?}"
    );
}

#[test]
fn a_base_that_is_a_mount_point_is_known_not_to_be_replaced() {
    require!(private_mounts);
    let place = Place::with_noise(4096, 70);
    let mounted = place.dir().join("mounted.raw");
    fs::write(&mounted, "").unwrap();
    let script =
        r#"mount --bind "$1" "$2" && exec "$3" run --accel=qemu --dry-run --kernel=k --on-exit=commit --disk="$2""#;

    let ended = private_mount_command()
        .args(["sh", "-c", script, "sh"])
        .args([place.base(), mounted, beside_this_test("mayfly")])
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("mounted.raw is a mount point"), "{said}");
}

#[test]
fn nothing_is_committed_where_nothing_was_written_and_nothing_asked_without_a_terminal() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 62);
    let run = |on_exit| {
        bare::run(&place, "kvm", 1, &program().power_off())
            .and([on_exit])
            .output()
    };

    let ended = run("--on-exit=commit");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("nothing to keep"), "{ended:?}");
    let ended = run("--on-exit=ask");
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("needs a terminal"), "{ended:?}");
}

#[test]
fn a_disk_that_was_only_resized_was_changed() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 78);
    let golden = place.dir().join("golden.raw");
    let ctl = Ctl::at(place.dir().join("ctl"));
    for (on_exit, length) in [("ask", DISK), ("commit", 2 * DISK)] {
        fs::copy(place.base(), &golden).unwrap();
        let disk = format!("--disk={},control={}", golden.display(), ctl.socket().display());
        let run = bare::run(&place, "kvm", 0, &program().wait_for_key().power_off())
            .and([disk, format!("--on-exit={on_exit}")]);
        let mut run = run.on_terminal();
        run.wait_for("hello", END);
        let _ = ctl.done(["resize", "32M"]);

        run.type_in("x");
        if on_exit == "ask" {
            run.wait_for("resized to 32 MiB: burn, commit", END);
            run.type_in("burn\n");
        }

        let ended = run.wait_within(END);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let content = fs::read(&golden).unwrap();
        assert_eq!(content.len(), length, "{on_exit}");
        assert!(content[..DISK] == *place.content(), "{on_exit}: it is another disk");
    }
}

#[test]
fn the_console_does_not_take_from_the_end_what_it_needs() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 74);
    let out = place.dir().join("out.raw");
    let save = format!("save={}", out.display());
    for (on_exit, why) in [
        ("commit", "cannot be done twice"),
        (&*save, "where --on-exit saves disk"),
    ] {
        let mut run = bare::run(&place, "kvm", 1, &program().wait_for_key().power_off())
            .and([format!("--on-exit={on_exit}")])
            .on_terminal();
        run.wait_for("hello", END);

        run.type_in("\x01s");
        run.wait_for("(nothing: go on)? ", END);
        run.type_in(&format!("{on_exit}\n"));
        run.wait_for(why, END);
        run.wait_for("nothing was done", END);
        run.type_in("x");

        let ended = run.wait_within(END);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    assert!(fs::read(&out).unwrap() == place.content(), "it is another disk");
}

#[test]
fn a_disk_is_reset_at_each_reboot_if_that_is_wanted() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 63);
    let ctl = Ctl::at(place.dir().join("vda.ctl"));
    let control = format!("{},control={}", place.base().display(), ctl.socket().display());
    let limits = "overlay-limit=64K,map-limit=8K,keep-free=4K,at-limit=hold,iops=500:2000,bandwidth=100M:1G";
    let control = format!("{control},{limits}");
    let limited = || {
        let status = ctl.json(["status"]);
        (status["limits"].clone(), status["overlay"]["map_limit_bytes"].clone())
    };
    // Long enough for somebody to come and listen.
    let program = program().times(200_000, |turn| turn.out(0x80, 0)).reboot();
    let mut run = bare::run(&place, "kvm", 0, &program)
        .and([format!("--disk={control}"), "--reset-on-reboot".to_owned()])
        .on_pipes();
    run.wait_for("hello\n", END);
    let mut events = ctl.start(["events"]);
    let expected = serde_json::json!({
        "overlay_bytes": 64 << 10,
        "iops": {"per_second": 500, "burst": 2000},
        "bandwidth": {"per_second": 100 << 20, "burst": 1 << 30},
        "keep_free_bytes": 4096,
        "at_limit": "hold",
    });
    let before = limited();
    assert_eq!(before.0, expected, "limits of the command line");

    let mut lines = BufReader::new(events.stdout()).lines();

    let reset = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("as the base again")));
    assert!(reset.is_some());
    run.wait_for("hello\nhello\n", END);
    assert_eq!(limited(), before, "limits after a reset");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait_within(END).code, Some(143));
    assert!(!ctl.socket().exists(), "the socket is left");
    assert_eq!(events.end().code, Some(21), "the helper went away");

    let ended = shell(&place).and(["--reset-on-reboot"]).output();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("needs KVM"), "{ended:?}");
}

#[test]
fn a_run_that_ends_before_its_helpers_are_ready_leaves_no_control_socket() {
    let _turn = turn();
    let place = Place::with_noise(DISK, 75);
    let socket = place.dir().join("vda.ctl");
    // Which of the two is faster is not known.
    for _ in 0..10 {
        let ended = bare::run(&place, "qemu", 0, &program().power_off())
            .and([
                format!("--disk={},control={}", place.base().display(), socket.display()),
                format!("--disk={},overlay-dir=/nonexist", place.base().display()),
            ])
            .output();

        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(!socket.exists(), "the socket is left: {ended:?}");
    }
}
