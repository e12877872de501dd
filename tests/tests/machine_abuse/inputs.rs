//! `mayfly-vmm` with words and descriptors that no supervisor gives: it says in one line what is wrong, with the code for that.

use std::fs::{self, File};
use std::io::pipe;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::unlink;
use tests::helper::Ended;
use tests::payload::{Mode, Payload};
use tests::require;
use tests::vmm::{VmmBuilder, code};

const DESCRIPTORS: &str = "there are descriptors left";

/// A file without a name, with this in it.
pub(crate) fn file(content: &[u8]) -> File {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("mayfly-input-{}-{number}", std::process::id()));
    fs::write(&path, content).expect("the temporary directory can be written");
    let file = File::open(&path).expect("it was just written");
    unlink(&path).expect("it is ours");
    file
}

/// A kernel that switches its machine off at once.
pub(crate) fn kernel() -> File {
    file(&Payload::new(Mode::Protected).power_off().to_elf())
}

/// A descriptor for the VMM, and what must stay open here meanwhile.
type Wrong = (OwnedFd, Option<OwnedFd>);

/// An option's name, what to give for it, and words of the refusal.
type Case = (&'static str, fn() -> Wrong, &'static str);

fn alone(descriptor: impl Into<OwnedFd>) -> Wrong {
    (descriptor.into(), None)
}

fn directory() -> Wrong {
    alone(File::open("/").expect(DESCRIPTORS))
}

fn device(path: &str) -> Wrong {
    alone(File::options().read(true).write(true).open(path).expect(DESCRIPTORS))
}

fn null() -> Wrong {
    device("/dev/null")
}

/// A pipe into which nobody ever writes, though somebody could.
fn silent_pipe() -> Wrong {
    let (reader, writer) = pipe().expect(DESCRIPTORS);
    (reader.into(), Some(writer.into()))
}

fn writers_end() -> Wrong {
    let (reader, writer) = pipe().expect(DESCRIPTORS);
    (writer.into(), Some(reader.into()))
}

/// A socket whose other end is closed.
fn dead_socket() -> Wrong {
    alone(UnixStream::pair().expect(DESCRIPTORS).0)
}

fn unconnected() -> Wrong {
    alone(UnixDatagram::unbound().expect(DESCRIPTORS))
}

fn internet() -> Wrong {
    alone(UdpSocket::bind("127.0.0.1:0").expect(DESCRIPTORS))
}

fn a_file() -> Wrong {
    alone(kernel())
}

/// That it ended with this code and one line that has these words.
#[track_caller]
pub(crate) fn assert_refused(ended: &Ended, code: i32, words: &str) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(ended.stderr.starts_with("mayfly-vmm: error: "), "{ended:?}");
    assert!(ended.stderr.contains(words), "{words:?}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert_eq!(ended.stdout, "", "it was not ready");
}

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    require!(kvm);
    let sound = || VmmBuilder::new(kernel());
    let long = "x".repeat(10_000);
    let cases = [
        sound().without("kvm"),
        sound().without("kernel"),
        sound().without("console-in"),
        sound().another("kernel", "9"),
        sound().word("kvm", "0"),
        sound().word("kvm", "-1"),
        sound().word("kernel", "99999999999"),
        sound().word("kernel", ""),
        sound().word("cpus", "0"),
        sound().word("cpus", "256"),
        sound().word("memory", "1"),
        sound().word("memory", "1G"),
        sound().word("memory", "18446744073709551616"),
        sound().word("disk", "/etc/passwd"),
        sound().word("net", "nonsense"),
        sound().word("user", "0:0"),
        sound().word("no-such-option", "1"),
        sound().word(&long, "1"),
        sound().another("check-confinement", "yes"),
    ];
    for machine in cases {
        let ended = machine.start().wait();

        assert_eq!(ended.code, Some(code::USAGE), "{ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{ended:?}");
    }
}

#[test]
fn a_number_that_is_no_open_descriptor_or_is_given_twice_is_named() {
    require!(kvm);
    for name in ["kvm", "kernel", "console-in", "console-out", "initrd", "disk"] {
        let sound = VmmBuilder::new(kernel());
        let twice = if name == "console-out" { "kvm" } else { "console-out" };
        let other = sound.value(twice);

        let ended = sound.word(name, &other).start().wait();
        assert_refused(
            &ended,
            code::CANNOT_START,
            &format!("descriptor {other} is named twice"),
        );

        let ended = VmmBuilder::new(kernel()).word(name, "900").start().wait();
        assert_refused(&ended, code::NOT_CONFINED, "descriptor 900 cannot be kept: it is");
    }
}

#[test]
fn a_descriptor_of_the_wrong_kind_is_refused() {
    require!(kvm);
    let cases: &[Case] = &[
        ("kvm", null, "not KVM"),
        ("kvm", directory, "not KVM"),
        ("kvm", dead_socket, "not KVM"),
        ("kvm", silent_pipe, "not KVM"),
        ("kvm", a_file, "not KVM"),
        ("kernel", directory, "kernel"),
        ("kernel", silent_pipe, "kernel"),
        ("kernel", writers_end, "kernel"),
        ("kernel", dead_socket, "kernel"),
        ("kernel", null, "kernel"),
        ("kernel", || device("/dev/zero"), "kernel"),
        ("kernel", || device("/dev/kvm"), "kernel"),
        ("initrd", directory, "initramfs"),
        ("initrd", silent_pipe, "initramfs"),
        ("initrd", dead_socket, "initramfs"),
        ("console-in", directory, "control loop"),
        ("console-in", a_file, "control loop"),
        ("disk", a_file, "disk 0"),
        ("disk", directory, "disk 0"),
        ("disk", null, "disk 0"),
        ("disk", silent_pipe, "disk 0"),
        ("disk", writers_end, "disk 0"),
        ("disk", dead_socket, "disk 0"),
        ("disk", unconnected, "disk 0"),
        ("disk", internet, "disk 0"),
        ("net", null, "net"),
    ];
    for (name, make, words) in cases {
        let (theirs, _ours) = make();
        let machine = VmmBuilder::new(kernel()).descriptor(name, theirs);
        let machine = match machine.value(name) {
            number if *name == "net" => machine.word(name, &format!("{number},02:00:00:00:00:01")),
            _ => machine,
        };

        let ended = machine.start().wait();

        println!("{name}: {:?} {}", ended.code, ended.stderr);
        assert_refused(&ended, code::CANNOT_START, words);
    }
}

#[test]
fn more_than_there_can_be_is_refused() {
    require!(kvm);
    let sound = || VmmBuilder::new(kernel());
    let cases = [
        (sound().word("memory", "4096"), "memory"),
        (sound().word("memory", "1125899906842624"), "memory"),
        (sound().word("memory", "18446744073709547520"), "memory"),
        (sound().word("cmdline", &"x".repeat(5000)), "command line"),
    ];
    for (machine, words) in cases {
        let ended = machine.start().wait();

        println!("{:?} {}", ended.code, ended.stderr);
        assert_refused(&ended, code::CANNOT_START, words);
    }
}

#[test]
fn a_supervisor_that_left_is_not_told_that_the_machine_is_ready() {
    require!(kvm);
    let mut vmm = VmmBuilder::new(kernel()).deaf().start();

    assert_refused(
        &vmm.wait(),
        code::CANNOT_START,
        "cannot tell the supervisor that the machine is ready",
    );
}
