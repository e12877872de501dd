//! Saved disks are, byte for byte, what the guest had when the save was answered, whatever it writes meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::control::SaveState;
use tests::client::{Client, Request};
use tests::model::Model;
use tests::place::Place;
use tests::rng::Rng;

use crate::support::{RAW, assert_same, await_end, begin, connect, delta, operated, output, save};

const DISK: usize = 24 << 20;

/// Some of everything that a guest does to a disk.
fn change(client: &mut Client, model: &mut Model, rng: &mut Rng, count: usize) {
    let sectors = u64::try_from(model.len() / 512).expect("small");
    for _ in 0..count {
        let sector = rng.below(sectors);
        let len = 512 * rng.between(1, 64.min(sectors - sector).max(1));
        let (offset, at) = (sector * 512, usize::try_from(sector * 512).expect("small"));
        let bytes = usize::try_from(len).expect("small");
        match rng.below(5) {
            0 => {
                assert_eq!(client.run(&Request::Discard { offset, len }), 0);
                model.discard(at, bytes);
            }
            1 => {
                let request = Request::WriteZeroes {
                    offset,
                    len,
                    unmap: false,
                };
                assert_eq!(client.run(&request), 0);
                model.write_zeroes(at, bytes);
            }
            _ => {
                let bytes = rng.bytes(bytes);
                client.write(offset, &bytes);
                model.write(at, &bytes);
            }
        }
    }
}

fn whole(model: &Model) -> Vec<u8> {
    model.read(0, model.len()).to_vec()
}

#[test]
fn both_formats_are_the_disk_at_the_moment_while_the_guest_writes_on() {
    // The end is no multiple of a cluster.
    let place = Place::with_noise(DISK + 1536, 1);
    for options in [&[][..], &["--no-encrypt"]] {
        let helper = options
            .iter()
            .fold(place.helper(), |helper, option| helper.option(option));
        let (helper, operator) = operated(helper);
        let mut client = connect(&helper);
        let mut model = Model::new(place.content());
        let mut rng = Rng::new(7);
        for (round, request) in [RAW, delta(&place.base()), RAW, delta(&place.base())]
            .into_iter()
            .enumerate()
        {
            change(&mut client, &mut model, &mut rng, 200);
            let moment = whole(&model);
            let path = place.dir().join(format!("saved-{}-{round}", options.len()));
            begin(&operator, request.clone(), &output(&path)).unwrap();
            let stop = AtomicBool::new(false);
            let ended = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        change(&mut client, &mut model, &mut rng, 20);
                    }
                });
                let ended = await_end(&operator);
                stop.store(true, Ordering::Relaxed);
                ended
            });

            assert_eq!(ended.state, SaveState::Done);
            if request == RAW {
                assert!(
                    fs::read(&path).unwrap() == moment,
                    "round {round}: not the disk as it was"
                );
            } else {
                let raw = place.dir().join(format!("model-{}-{round}", options.len()));
                fs::write(&raw, &moment).unwrap();
                assert_same(&path, &raw);
            }
            let overlay = operator.status().overlay.unwrap();
            assert_eq!(
                overlay.used_bytes,
                overlay.dirty_clusters * 4096,
                "the save kept something"
            );
        }
        assert!(
            client.read_all() == whole(&model),
            "the guest's disk was changed by saving it"
        );
        helper.terminate();
    }
}

#[test]
fn a_delta_is_as_small_as_what_was_changed() {
    let place = Place::with_noise(DISK, 2);
    let (helper, operator) = operated(place.helper());
    let mut client = connect(&helper);
    let empty = save(&operator, delta(&place.base()), place.dir().join("empty"));
    client.write(5 << 20, &[7; 512]);
    let len = 1 << 20;
    assert_eq!(client.run(&Request::Discard { offset: 9 << 20, len }), 0);

    let raw = save(&operator, RAW, place.dir().join("raw"));
    let path = save(&operator, delta(&place.base()), place.dir().join("delta"));

    assert_same(&empty, &place.base());
    assert_same(&path, &raw);
    // Header, L1, two L2, one cluster of data, two of counts.
    assert_eq!(fs::metadata(&path).unwrap().len(), 7 * 4096);
    assert_eq!(fs::metadata(&empty).unwrap().len(), 4 * 4096);
    helper.terminate();
}

#[test]
fn a_raw_image_has_holes_where_there_is_nothing() {
    let place = Place::with_base(&[&vec![0; 8 << 20][..], &Rng::new(1).bytes(1 << 20)[..]].concat());
    let (helper, operator) = operated(place.helper());
    let mut client = connect(&helper);
    client.write(0, &[0; 1 << 20]);
    let len = 512 << 10;
    assert_eq!(client.run(&Request::Discard { offset: 8 << 20, len }), 0);

    let path = save(&operator, RAW, place.dir().join("raw"));

    let saved = fs::metadata(&path).unwrap();
    assert_eq!(saved.len(), 9 << 20);
    assert!(saved.blocks() * 512 <= 1 << 20, "{} blocks", saved.blocks());
    assert!(fs::read(&path).unwrap() == client.read_all());
    helper.terminate();
}
