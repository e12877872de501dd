//! Bases of every kind and length.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use tests::client::{Buffer, Client, Request, Setup};
use tests::drive::{Notice, Plan};
use tests::helper::beside_this_test;
use tests::model::{CLUSTER, Model, SECTOR};
use tests::place::Place;
use tests::require;
use tests::rng::Rng;

use super::{EIO, agrees_with_the_model, plan};

#[test]
fn a_base_without_locks_is_warned_of() {
    // Nobody else's strace sees which file a descriptor of a helper is.
    require!(root);
    let place = Place::with_noise(1 << 20, 1);
    let said = |calls: &str| {
        // Nobody is at the other end any more: the helper starts, and ends.
        let (ours, _) = UnixStream::pair().expect("there are descriptors");
        // Its first call of that kind on the base is the lock.
        let script = r#"exec strace -qq -o /dev/null -P "$1" -e trace="$3" -e inject="$3":error=ENOLCK:when=1 \
            "$2" --blk-file "$1" --fd 3 --report text 3<&0 </dev/null"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(place.base());
        command.arg(beside_this_test("blk-helper")).arg(calls);
        let output = command.stdin(OwnedFd::from(ours)).output().expect("there is a shell");
        assert!(output.status.success(), "{output:?}");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };

    let (report, warned) = said("fcntl");
    assert!(report.contains("base NOT LOCKED against QEMU's writers"), "{report}");
    assert!(warned.contains("has no locks"), "{warned}");
    // Another call, which it makes on no base.
    let (report, warned) = said("listen");
    assert!(report.contains("base locked against QEMU's writers"), "{report}");
    assert!(!warned.contains("has no locks"), "{warned}");
}

#[test]
fn a_base_of_any_length_reads_as_itself_and_then_zeros() {
    for len in [
        1,
        511,
        512,
        513,
        1024,
        4095,
        4096,
        4097,
        4608,
        8191,
        65_536,
        65_537,
        (1 << 20) + 4095,
    ] {
        let place = Place::with_noise(len, 10);
        let helper = place.helper().start();
        let mut client = Client::connect(helper.socket(), Setup::default());
        let model = Model::new(place.content());

        assert_eq!(client.capacity(), u64::try_from(model.len()).unwrap(), "base of {len}");
        assert!(client.read_all() == model.read(0, model.len()), "base of {len}");

        helper.terminate();
    }
}

#[test]
fn the_end_of_a_base_of_any_length_can_be_written_discarded_and_zeroed() {
    for len in [512, 513, 1536, 4095, 4096, 4097, 4608, 12_288 + 511] {
        let place = Place::with_noise(len, 11);
        let helper = place.helper().start();
        let plan = Plan {
            requests: 2_000,
            in_flight: 8,
            ..plan(808, Notice::Eventfd)
        };

        let tally = agrees_with_the_model(&helper, place.content(), plan.setup(2, true), plan);

        assert_eq!(tally.completed, plan.requests);
        helper.terminate();
    }
}

#[test]
fn a_block_device_is_a_base() {
    require!(root);
    let place = Place::with_noise((1 << 20) + 512, 12);
    let Some(device) = LoopDevice::over(&place.base()) else {
        require::skip("needs a free loop device");
        return;
    };
    let helper = place.helper().base(&device.path).start();
    let plan = Plan {
        requests: 2_000,
        ..plan(909, Notice::Eventfd)
    };

    let tally = agrees_with_the_model(&helper, place.content(), plan.setup(4, true), plan);

    assert_eq!(tally.completed, plan.requests);
    helper.terminate();
}

#[test]
fn a_base_of_terabytes_is_served_from_end_to_end() {
    let place = Place::with_base(b"unused");
    let sparse = place.dir().join("sparse");
    File::create(&sparse).unwrap().set_len(8 << 40).unwrap();
    let helper = place.helper().base(&sparse).start();
    let mut client = Client::connect(helper.socket(), Setup::default());
    let end = client.capacity() - 4096;

    client.write(end, &[7; 4096]);
    client.write(4 << 40, &[8; 512]);

    assert_eq!(client.capacity(), 8 << 40);
    assert_eq!(client.read(end - 4096, 8192), [[0; 4096], [7; 4096]].concat());
    assert_eq!(client.read(4 << 40, 1024), [[8; 512], [0; 512]].concat());
    helper.terminate();
}

/// Zeros would look like data to the guest.
#[test]
fn what_a_shrunk_base_no_longer_has_is_an_error() {
    let place = Place::with_base(b"unused");
    let other = place.dir().join("other");
    fs::write(&other, [7; 64 * 4096]).unwrap();
    let helper = place.helper().base(&other).start();
    let mut client = Client::connect(helper.socket(), Setup::default());
    client.write(40 * 4096, &[8; 4096]);

    File::options()
        .write(true)
        .open(&other)
        .unwrap()
        .set_len(32 * 4096)
        .unwrap();

    let behind = Request::Read {
        offset: 50 * 4096,
        buffers: vec![Buffer { at: 0, len: 4096 }],
    };
    assert_eq!(client.read(0, 4096), [7; 4096]);
    assert_eq!(
        client.read(40 * 4096, 4096),
        [8; 4096],
        "what the overlay has does not depend on the base"
    );
    assert_eq!(client.run(&behind), EIO);
    helper.terminate();
}

#[test]
fn a_base_that_is_replaced_by_name_stays_the_one_that_was_opened() {
    let place = Place::with_base(b"unused");
    let other = place.dir().join("other");
    fs::write(&other, [7; 4096]).unwrap();
    let helper = place.helper().base(&other).start();

    fs::write(place.dir().join("new"), [9; 4096]).unwrap();
    fs::rename(place.dir().join("new"), &other).unwrap();

    assert_eq!(
        Client::connect(helper.socket(), Setup::default()).read(0, 4096),
        [7; 4096]
    );
    helper.terminate();
}

/// A loop device, detached at the end.
struct LoopDevice {
    path: String,
}

impl LoopDevice {
    fn over(file: &Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--read-only"])
            .arg(file)
            .output()
            .ok()?;
        let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !path.is_empty()).then_some(Self { path })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}

#[test]
fn a_read_only_disk_reads_and_refuses_every_change() {
    let place = Place::with_noise(1 << 20, 13);
    let helper = place.helper().read_only().start();
    let mut client = Client::connect(helper.socket(), Setup::default());

    assert_ne!(client.features() & (1 << 5), 0, "VIRTIO_BLK_F_RO is offered");
    assert_eq!(client.try_write(0, &[1; SECTOR]), EIO);
    assert_ne!(client.run(&Request::Discard { offset: 0, len: 4096 }), 0);
    assert_ne!(
        client.run(&Request::WriteZeroes {
            offset: 0,
            len: 4096,
            unmap: true
        }),
        0
    );
    assert_eq!(client.run(&Request::Flush), 0);
    assert!(client.read_all() == place.content());

    helper.terminate();
}

#[test]
fn two_helpers_on_one_base_do_not_see_each_other() {
    let place = Place::with_noise(1 << 20, 18);
    let other_place = Place::with_base(b"unused");
    let first = place.helper().start();
    let second = other_place.helper().base(place.base()).start();
    let bytes = Rng::new(1).bytes(CLUSTER);

    Client::connect(first.socket(), Setup::default()).write(0, &bytes);

    assert_eq!(
        Client::connect(second.socket(), Setup::default()).read(0, CLUSTER),
        place.content()[..CLUSTER]
    );
    assert_eq!(
        Client::connect(first.socket(), Setup::default()).read(0, CLUSTER),
        bytes
    );
    first.terminate();
    second.terminate();
}
