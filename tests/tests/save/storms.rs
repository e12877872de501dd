//! Everything at once: several queues full of requests, saves that end in each way, limits that change, resets in between.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protocol::control::{Answer, Command, LimitsChange, Rate, SaveState};
use tests::client::Client;
use tests::drive::{Notice, Plan, drive};
use tests::model::Model;
use tests::operator::Operator;
use tests::place::Place;
use tests::rng::Rng;

use crate::support::{RAW, await_end, begin, delta, output, save};

const DISK: usize = (12 << 20) + 1536;

/// What an operator does who cannot decide, until `done`. How many saves ended well.
fn meddle(place: &Place, done: &AtomicBool) -> usize {
    let (operator, mut rng, mut saved) = (Operator::connect(&place.control()), Rng::new(3), 0);
    while !done.load(Ordering::Relaxed) {
        let client = Operator::connect(&place.control());
        let path = place.dir().join("meddled");
        let request = if rng.below(2) == 0 { RAW } else { delta(&place.base()) };
        let begun = begin(&client, request, &output(&path));
        // The save of one that left may not have noticed yet.
        assert!(begun.is_ok() || begun.is_err_and(|why| why.starts_with("busy")));
        let per_second = [0, 500, 100_000][rng.index(3)];
        operator.set_limits(LimitsChange {
            iops: Some(Rate { per_second, burst: 0 }),
            ..LimitsChange::default()
        });
        match rng.below(3) {
            0 => drop(client),
            1 => _ = client.ask(Command::CancelSave, &[]),
            _ => saved += usize::from(await_end(&operator).state == SaveState::Done),
        }
        let reset = operator.ask(Command::Reset, &[]);
        assert!(reset.is_err_and(|why| why.starts_with("busy")));
        fs::remove_file(&path).expect("the output was made above");
    }
    operator.set_limits(LimitsChange {
        iops: Some(Rate::UNLIMITED),
        ..LimitsChange::default()
    });
    let begun = Instant::now();
    while operator
        .status()
        .save
        .is_some_and(|save| save.state == SaveState::Running)
    {
        assert!(begun.elapsed() < Duration::from_secs(30), "a save does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    saved
}

/// Sets a flag when it is dropped.
struct AtTheEnd<'f>(&'f AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_disk_is_the_models_whatever_its_operator_does_meanwhile() {
    let place = Place::with_noise(DISK, 9);
    for options in [&["--threads", "2"][..], &["--threads", "3", "--no-encrypt"]] {
        let helper = options
            .iter()
            .fold(place.helper().controlled(), |helper, option| helper.option(option));
        let helper = helper.start();
        let operator = Operator::connect(&place.control());
        for seed in 0..2 {
            let plan = Plan {
                seed,
                requests: 4_000,
                in_flight: 64,
                notice: Notice::Eventfd,
                most_zeroed: 512 << 10,
            };
            let mut client = Client::connect(helper.socket(), plan.setup(3, true));
            let mut model = Model::new(place.content());
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let meddling = scope.spawn(|| meddle(&place, &done));
                {
                    // Also if what follows fails, so that the failure is told.
                    let _end = AtTheEnd(&done);
                    drive(&mut client, &mut model, plan);
                }
                meddling.join().unwrap()
            });

            let path = place.dir().join("after");
            let raw = save(&operator, RAW, path);
            assert!(client.read_all() == model.read(0, model.len()), "the disk differs");
            assert!(
                fs::read(&raw).unwrap() == model.read(0, model.len()),
                "what was saved differs"
            );
            fs::remove_file(raw).unwrap();
            let overlay = operator.status().overlay.unwrap();
            assert_eq!(
                overlay.used_bytes,
                overlay.dirty_clusters * 4096,
                "a save kept something"
            );
            drop(client);
            let begun = Instant::now();
            while operator.ask(Command::Reset, &[]) != Ok(Answer::Reset) {
                assert!(begun.elapsed() < Duration::from_secs(5), "the guest has left");
            }
        }
        helper.terminate();
    }
}
