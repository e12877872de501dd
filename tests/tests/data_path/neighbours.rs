//! Requests that share no byte but a cluster, or no cluster but a slot of the overlay: the races that copy-on-write has.
//!
//! Random traffic meets them now and then; here nothing else happens. Each queue gets its share of every cluster in the
//! same order, so that the helper's workers walk over the clusters side by side.

use std::time::Duration;

use tests::client::{Buffer, Client, Request, SCRATCH_LEN, Setup};
use tests::model::{CLUSTER, Model, SECTOR};
use tests::place::Place;
use tests::rng::Rng;

const QUEUES: usize = 4;
const DISK: usize = 32 << 20;
/// Requests in flight.
const BATCH: usize = 512;
const PER_CLUSTER: usize = CLUSTER / SECTOR;

fn connect(helper: &tests::helper::Helper) -> Client {
    let memory = u64::try_from(BATCH * CLUSTER).expect("a few mebibytes");
    Client::connect(
        helper.socket(),
        Setup {
            queues: QUEUES,
            queue_size: 512,
            memory,
            ..Setup::default()
        },
    )
}

/// Where request `index` of a batch has its bytes.
fn buffer(index: usize, len: usize) -> Buffer {
    let at = SCRATCH_LEN + u64::try_from(index * CLUSTER).expect("a few mebibytes");
    Buffer { at, len }
}

/// Submits all, kicks all, and waits for all; request `index` goes to queue `index` modulo their number.
fn run_together(client: &mut Client, requests: &[Request]) {
    for (index, request) in requests.iter().enumerate() {
        client.submit(index % QUEUES, request, u64::try_from(index).expect("a batch is small"));
    }
    for queue in 0..QUEUES {
        client.kick(queue);
    }
    let mut done = 0;
    loop {
        for queue in 0..QUEUES {
            for answer in client.completions(queue) {
                assert_eq!(
                    answer.result,
                    0,
                    "{:?}",
                    requests[usize::try_from(answer.token).expect("an index")]
                );
                done += 1;
            }
        }
        if done == requests.len() {
            return;
        }
        assert!(
            client.wait(Duration::from_secs(30)),
            "stalled at {done} of {}",
            requests.len()
        );
    }
}

fn at(cluster: usize, sector: usize) -> u64 {
    u64::try_from(cluster * CLUSTER + sector * SECTOR).expect("inside the disk")
}

#[test]
fn eight_neighbours_in_an_untouched_cluster_all_arrive() {
    let place = Place::with_noise(DISK, 21);
    let helper = place.helper().value("--threads", "4").start();
    let mut client = connect(&helper);
    let mut model = Model::new(place.content());
    let mut rng = Rng::new(21);
    let clusters: Vec<_> = (0..DISK / CLUSTER).collect();

    for batch in clusters.chunks(BATCH / PER_CLUSTER) {
        let sectors = || {
            batch
                .iter()
                .flat_map(|cluster| (0..PER_CLUSTER).map(move |sector| (*cluster, sector)))
        };
        let mut requests = Vec::new();
        for (index, (cluster, sector)) in sectors().enumerate() {
            let buffers = vec![buffer(index, SECTOR)];
            let offset = at(cluster, sector);
            // The last sector of each cluster is read meanwhile, and must be the base's.
            if sector == PER_CLUSTER - 1 {
                requests.push(Request::Read { offset, buffers });
                continue;
            }
            let bytes = rng.bytes(SECTOR);
            client.memory().write(buffers[0].at, &bytes);
            model.write(usize::try_from(offset).unwrap(), &bytes);
            requests.push(Request::Write { offset, buffers });
        }
        run_together(&mut client, &requests);

        for (index, (cluster, sector)) in sectors()
            .enumerate()
            .filter(|(_, (_, sector))| *sector == PER_CLUSTER - 1)
        {
            let found = client.memory().read(buffer(index, SECTOR).at, SECTOR);
            assert_eq!(
                found,
                model.read(cluster * CLUSTER + sector * SECTOR, SECTOR),
                "cluster {cluster}"
            );
        }
    }

    assert!(client.read_all() == model.read(0, model.len()));
    helper.terminate();
}

/// One half of the disk is discarded while the other is written, then the other way round: the slots change hands.
#[test]
fn freed_space_never_takes_its_next_owners_data_along() {
    let place = Place::with_noise(DISK, 22);
    let helper = place.helper().value("--threads", "4").start();
    let mut client = connect(&helper);
    let mut model = Model::new(place.content());
    let mut rng = Rng::new(22);
    let half = DISK / CLUSTER / 2;
    let len = u64::try_from(CLUSTER).unwrap();

    for round in 0..16 {
        let (written, discarded) = if round % 2 == 0 { (0, half) } else { (half, 0) };
        let clusters: Vec<_> = (0..half).collect();
        for batch in clusters.chunks(BATCH / 2) {
            let mut requests = Vec::new();
            for (index, cluster) in batch.iter().enumerate() {
                let bytes = rng.bytes(SECTOR).repeat(PER_CLUSTER);
                let target = buffer(index, CLUSTER);
                client.memory().write(target.at, &bytes);
                model.write((written + cluster) * CLUSTER, &bytes);
                model.discard((discarded + cluster) * CLUSTER, CLUSTER);
                requests.push(Request::Write {
                    offset: at(written + cluster, 0),
                    buffers: vec![target],
                });
                requests.push(Request::Discard {
                    offset: at(discarded + cluster, 0),
                    len,
                });
            }
            run_together(&mut client, &requests);
        }
        assert!(client.read_all() == model.read(0, model.len()), "round {round}");
    }

    helper.terminate();
}
