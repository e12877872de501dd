//! What an operator calls off: the commit at the end, an answer to the question there, a save that was begun at the console. And
//! what does not: a terminal that is closed, a save that was begun elsewhere.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use tests::bare;
use tests::ctl::{Ctl, Order};
use tests::payload::disk::Disk;
use tests::payload::{Mode, Payload};
use tests::place::Place;
use tests::require;
use tests::rng::Rng;
use tests::supervised::{END, Running, children_of};

use crate::support::{DISK, turn};

/// What the guest writes.
const WRITTEN: u32 = 0x5858_5858;

/// Writes the first cluster of the first disk, which it fills with zeros but for a word.
fn writer() -> Payload {
    let disk = Disk::new(0);
    let program = disk.start(Payload::new(Mode::Protected).store(disk.data(), WRITTEN));
    disk.write(program, 0, 1).print("written\n")
}

/// The place's disk once that is committed.
fn rewritten(place: &Place) -> Vec<u8> {
    let mut content = place.content().to_vec();
    content[..4096].fill(0);
    content[..4].copy_from_slice(&WRITTEN.to_le_bytes());
    content
}

#[test]
fn a_signal_during_the_commit_at_the_end_leaves_the_base_old_or_new() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 67);
    let dir = place.dir().join("images");
    let golden = dir.join("golden.raw");
    fs::create_dir(&dir).unwrap();
    let new = rewritten(&place);
    let words = [
        "--verbose".to_owned(),
        "--on-exit=commit".to_owned(),
        format!("--disk={}", golden.display()),
    ];
    let mut rng = Rng::new(67);
    for round in 0..20 {
        // The last one has no time to be done.
        let is_vast = round == 19;
        fs::copy(place.base(), &golden).unwrap();
        if is_vast {
            make_vast(&fs::OpenOptions::new().write(true).open(&golden).unwrap());
        }
        let before = fs::metadata(&golden).unwrap().ino();
        let mut run = bare::run(&place, "kvm", 0, &writer().power_off())
            .and(&words)
            .on_pipes();
        run.wait_for_said("save 1 began", END);
        let moment = rng.index(if is_vast { 1 } else { 20_000 });
        std::thread::sleep(Duration::from_micros(u64::try_from(moment).unwrap()));

        run.signal([Signal::SIGTERM, Signal::SIGINT][round % 2]);

        let ended = run.wait_within(END);
        let is_new = fs::metadata(&golden).unwrap().ino() != before;
        assert_eq!(
            ended.code,
            Some(if is_new { 0 } else { 17 }),
            "round {round}: {ended:?}"
        );
        assert_eq!(ended.stderr.contains("golden.raw is its new base"), is_new, "{ended:?}");
        assert_eq!(ended.stderr.contains("is lost"), !is_new, "{ended:?}");
        assert!(!(is_vast && is_new), "a terabyte in no time");
        let mut content = vec![0; DISK];
        fs::File::open(&golden).unwrap().read_exact(&mut content).unwrap();
        let expected = if is_new { &new[..] } else { place.content() };
        assert!(content == expected, "round {round}: neither old nor new");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "something is left");
    }
}

/// A save of such a disk takes longer than anybody waits.
fn make_vast(file: &fs::File) {
    file.set_len(1 << 40).expect("a hole takes no space");
}

fn vast(place: &Place) -> [String; 2] {
    let vast = place.dir().join("vast");
    make_vast(&fs::File::create_new(&vast).expect("the place can be written"));
    ["--verbose".to_owned(), format!("--disk={}", vast.display())]
}

#[test]
fn a_signal_takes_back_an_answer_and_then_the_question() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(512, 68);
    let out = place.dir().join("out.raw");
    let mut run = bare::run(&place, "kvm", 0, &writer().power_off())
        .and(vast(&place))
        .and(["--on-exit=ask"])
        .on_terminal();
    run.wait_for("? [burn] ", END);
    run.type_in(&format!("save={}\n", out.display()));
    run.wait_for("save 1 began", END);

    run.type_in("\x03");
    run.wait_for("called off", END);
    run.wait_for_times("? [burn] ", 2, END);
    run.type_in("\x03");

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(17), "{ended:?}");
    assert!(!out.exists(), "something is left");
}

/// Begins to save a vast disk with C-a s, lets the guest power itself off, and waits until that save is waited for. Which disk is
/// asked where there are several.
fn save_at_the_console(run: &mut Running, disk: Option<&str>, out: &Path) {
    run.wait_for("written", END);
    run.type_in("\x01s");
    run.wait_for("(nothing: go on)? ", END);
    if let Some(disk) = disk {
        run.type_in(&format!("{disk}\n"));
        run.wait_for("or save=PATH", END);
    }
    run.type_in(&format!("save={}\n", out.display()));
    run.wait_for("save 1 began", END);
    run.type_in("x");
    // The bar of what is waited for.
    run.wait_for("of 1.00 TiB", END);
}

#[test]
fn what_was_begun_at_the_console_and_called_off_is_no_failure() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(512, 69);
    let out = place.dir().join("out.raw");
    let mut run = bare::run(&place, "kvm", 0, &writer().wait_for_key().power_off())
        .and(vast(&place))
        .on_terminal();
    save_at_the_console(&mut run, None, &out);

    run.type_in("\x03");

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(0), "{ended:?}\n{}", run.shown());
    assert!(run.shown().contains("called off"), "{}", run.shown());
    assert!(!out.exists(), "something is left");
}

#[test]
fn a_save_of_the_console_that_is_called_off_costs_no_commit() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 71);
    let out = place.dir().join("out.raw");
    let golden = place.dir().join("golden.raw");
    fs::copy(place.base(), &golden).unwrap();
    let mut run = bare::run(&place, "kvm", 0, &writer().wait_for_key().power_off())
        .and([format!("--disk={}", golden.display()), "--on-exit=commit".to_owned()])
        .and(vast(&place))
        .on_terminal();
    save_at_the_console(&mut run, Some("vdb"), &out);

    run.type_in("\x03");

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(0), "{ended:?}\n{}", run.shown());
    assert!(run.shown().contains("golden.raw is its new base"), "{}", run.shown());
    assert!(fs::read(&golden).unwrap() == rewritten(&place), "not committed");
    assert!(!out.exists(), "something is left");
}

#[test]
fn a_disk_to_which_nothing_was_written_is_not_called_lost() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(512, 72);
    let mut run = bare::run(&place, "kvm", 0, &writer().power_off())
        .and(vast(&place))
        .and([
            format!("--disk={}", place.base().display()),
            "--on-exit=commit".to_owned(),
        ])
        .on_pipes();
    run.wait_for_said("save 1 began", END);

    run.signal(Signal::SIGTERM);

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(17), "{ended:?}");
    assert!(ended.stderr.contains("wrote to vda (vast) is lost"), "{ended:?}");
}

/// The shell says that the terminal is gone, and the kernel does, and more than once.
#[test]
fn a_terminal_that_is_closed_does_not_call_off_what_it_began() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 73);
    let golden = place.dir().join("golden.raw");
    let out = place.dir().join("out.raw");
    fs::copy(place.base(), &golden).unwrap();
    let mut run = bare::run(&place, "kvm", 0, &writer().wait_for_key().power_off())
        .and([
            format!("--disk={}", golden.display()),
            format!("--on-exit=save={}", out.display()),
        ])
        .on_terminal();
    run.wait_for("written", END);
    // So that the save takes as long as this test wants.
    let helper = run.process("blk-helper");
    kill(helper, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();

    run.close_input();
    while children_of(run.pid()).len() > 1 {
        assert!(begun.elapsed() < END, "the VMM does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(20));
        run.signal(Signal::SIGHUP);
    }
    kill(helper, Signal::SIGCONT).unwrap();

    assert_eq!(run.wait_within(END).code, Some(128 + 1));
    let kept = fs::read(&out).expect("the disk is saved");
    assert!(kept == rewritten(&place), "it is another disk");
}

/// Begins to save the first disk to the other's place with `mayfly ctl`, and waits until the helper has begun.
fn save_from_elsewhere(run: &Running, ctl: &Ctl, out: &Path) -> Order {
    run.wait_for("written", END);
    let order = ctl.start([OsStr::new("save"), out.as_os_str()]);
    run.wait_for_said("save 1 began", END);
    order
}

/// The helper is stopped until the guest is gone, so that the save is still running then.
#[test]
fn the_end_waits_for_the_save_that_somebody_else_began() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(DISK, 76);
    let (ours, theirs) = (place.dir().join("ours.raw"), place.dir().join("theirs.raw"));
    let golden = place.dir().join("golden.raw");
    let ctl = Ctl::at(place.dir().join("ctl"));
    for (on_exit, kept) in [
        (format!("--on-exit=save={}", ours.display()), &ours),
        ("--on-exit=commit".to_owned(), &golden),
    ] {
        fs::copy(place.base(), &golden).unwrap();
        // Its save takes a moment.
        let file = fs::OpenOptions::new().write(true).open(&golden).unwrap();
        file.set_len(4 << 30).unwrap();
        let disk = format!("--disk={},control={}", golden.display(), ctl.socket().display());
        let run = bare::run(&place, "kvm", 0, &writer().halt()).and(["--verbose".to_owned(), disk, on_exit]);
        let mut run = run.on_pipes();
        let order = save_from_elsewhere(&run, &ctl, &theirs);
        let helper = run.process("blk-helper");
        kill(helper, Signal::SIGSTOP).unwrap();
        run.signal(Signal::SIGTERM);
        let begun = Instant::now();
        while children_of(run.pid()).len() > 1 {
            assert!(begun.elapsed() < END, "the VMM does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(helper, Signal::SIGCONT).unwrap();

        let ended = run.wait_within(END * 3);
        assert_eq!(ended.code, Some(143), "{ended:?}");
        assert!(ended.stderr.contains("waiting for its end"), "{ended:?}");
        let order = order.end();
        assert_eq!(order.code, Some(0), "{order:?}");
        for saved in [kept, &theirs] {
            let mut content = vec![0; DISK];
            fs::File::open(saved).unwrap().read_exact(&mut content).unwrap();
            assert!(content == rewritten(&place), "{} is another disk", saved.display());
            fs::remove_file(saved).unwrap();
        }
    }
}

#[test]
fn a_signal_calls_off_that_the_end_waits_for_the_save_of_somebody_else() {
    require!(kvm);
    let _turn = turn();
    let place = Place::with_noise(512, 77);
    let ctl = Ctl::at(place.dir().join("ctl"));
    let (ours, theirs) = (place.dir().join("ours.raw"), place.dir().join("theirs.raw"));
    let [verbose, disk] = vast(&place);
    let disk = format!("{disk},control={}", ctl.socket().display());
    let on_exit = format!("--on-exit=save={}", ours.display());
    let mut run = bare::run(&place, "kvm", 0, &writer().wait_for_key().power_off())
        .and([verbose, disk, on_exit])
        .on_pipes();
    let order = save_from_elsewhere(&run, &ctl, &theirs);
    run.type_in("x");
    run.wait_for_said("waiting for its end", END);

    run.signal(Signal::SIGINT);

    let ended = run.wait_within(END);
    assert_eq!(ended.code, Some(17), "{ended:?}");
    assert!(ended.stderr.contains("wrote to vda (vast) is lost"), "{ended:?}");
    assert_eq!(order.end().code, Some(21), "the helper went away");
    assert!(!ours.exists() && !theirs.exists(), "something is left");
}
