//! Single facts about the disk and its queues that random traffic would only find by luck.

use tests::client::{Buffer, Client, Request, Setup};
use tests::drive::{Notice, Plan};
use tests::model::{CLUSTER, Model, SECTOR};
use tests::place::Place;

use super::{EIO, agrees_with_the_model, plan};

#[test]
fn every_queue_size_serves() {
    let place = Place::with_noise(17 << 20, 8);
    let helper = place.helper().start();

    for queue_size in [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768] {
        let mut client = Client::connect(
            helper.socket(),
            Setup {
                queues: 2,
                queue_size,
                ..Setup::default()
            },
        );
        let bytes = vec![u8::try_from(queue_size.trailing_zeros()).unwrap(); SECTOR];
        client.write(512 * u64::from(queue_size), &bytes[..]);
        assert_eq!(
            client.read(512 * u64::from(queue_size), SECTOR),
            bytes,
            "queue size {queue_size}"
        );
    }

    helper.terminate();
}

#[test]
fn two_hundred_and_fifty_six_queues_serve() {
    let place = Place::with_noise(1 << 20, 8);
    let helper = place.helper().value("--num-queues", "256").start();
    let plan = Plan {
        requests: 5_000,
        ..plan(1010, Notice::Eventfd)
    };
    let setup = Setup {
        queue_size: 16,
        ..plan.setup(256, true)
    };

    let tally = agrees_with_the_model(&helper, place.content(), setup, plan);

    assert_eq!(tally.completed, plan.requests);
    helper.terminate();
}

/// More rounds than a 16-bit index has numbers.
#[test]
fn ring_indices_wrap_around() {
    let place = Place::with_noise(1 << 20, 9);
    let helper = place.helper().start();
    let mut client = Client::connect(
        helper.socket(),
        Setup {
            queue_size: 4,
            ..Setup::default()
        },
    );

    for round in 0..70_000_u64 {
        assert_eq!(client.run(&Request::Flush), 0, "round {round}");
    }

    assert_eq!(client.read(0, SECTOR), place.content()[..SECTOR]);
    helper.terminate();
}

#[test]
fn a_range_that_is_not_on_the_disk_is_an_error_and_changes_nothing() {
    let place = Place::with_noise(8 * CLUSTER, 15);
    let helper = place.helper().start();
    let mut client = Client::connect(helper.socket(), Setup::default());
    let end = client.capacity();
    let read = |offset, len| Request::Read {
        offset,
        buffers: vec![Buffer { at: 0, len }],
    };

    assert_eq!(client.run(&read(end, SECTOR)), EIO);
    assert_eq!(client.run(&read(end - 512, 2 * SECTOR)), EIO);
    assert_eq!(client.run(&read(u64::MAX - 511, SECTOR)), EIO, "sector 2^55 - 1");
    assert_eq!(client.try_write(end - 512, &[1; 2 * SECTOR]), EIO);
    assert_eq!(
        client.run(&Request::Discard {
            offset: end - 512,
            len: 1024
        }),
        EIO
    );
    assert_eq!(
        client.run(&Request::WriteZeroes {
            offset: end - 512,
            len: 1024,
            unmap: false
        }),
        EIO
    );
    assert_eq!(
        client.run(&Request::WriteZeroes {
            offset: end,
            len: 512,
            unmap: false
        }),
        EIO
    );

    assert!(client.read_all() == place.content());
    helper.terminate();
}

#[test]
fn zeroed_and_discarded_clusters_never_show_the_base_again() {
    let place = Place::with_noise(64 * CLUSTER, 16);
    let helper = place.helper().start();
    let mut client = Client::connect(helper.socket(), Setup::default());
    let mut model = Model::new(place.content());

    for (round, unmap) in [(0, false), (1, true)] {
        let at = round * 16 * CLUSTER;
        let offset = u64::try_from(at).unwrap();
        assert_eq!(
            client.run(&Request::WriteZeroes {
                offset: offset + 512,
                len: 20_000 / 512 * 512,
                unmap
            }),
            0
        );
        model.write_zeroes(at + 512, 20_000 / 512 * 512);
        client.write(offset + 4096 + 512, &[9; SECTOR]);
        model.write(at + 4096 + 512, &[9; SECTOR]);
        assert_eq!(
            client.run(&Request::Discard {
                offset: offset + 4096,
                len: 8192
            }),
            0
        );
        model.discard(at + 4096, 8192);
        client.write(offset + 8192 + 1024, &[8; SECTOR]);
        model.write(at + 8192 + 1024, &[8; SECTOR]);
    }

    assert!(client.read_all() == model.read(0, model.len()));
    helper.terminate();
}

/// A guest writes an image header with a host path into its raw disk (CVE-2026-27211): nobody may ever parse it.
#[test]
fn an_image_header_that_the_guest_wrote_is_only_data() {
    let place = Place::with_noise(1 << 20, 17);
    let helper = place.helper().start();
    let mut header = b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\x70\0\0\0\x0b".to_vec();
    header.resize(0x70, 0);
    header.extend_from_slice(b"/etc/shadow");
    header.resize(CLUSTER, 0);

    let mut client = Client::connect(helper.socket(), Setup::default());
    client.write(0, &header);
    drop(client);
    let mut client = Client::connect(helper.socket(), Setup::default());

    assert_eq!(client.read(0, CLUSTER), header);
    assert_eq!(client.capacity(), 1 << 20);
    helper.terminate();
}
