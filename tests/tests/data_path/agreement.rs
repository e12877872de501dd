//! Random traffic over many queues agrees with the model, byte by byte.

use tests::drive::{Notice, Plan};
use tests::model::CLUSTER;
use tests::place::Place;

use super::{DISK, agrees_with_the_model, plan};

#[test]
fn four_queues_with_event_idx_agree_with_the_model() {
    let place = Place::with_noise(DISK, 1);
    let helper = place.helper().start();
    let plan = plan(101, Notice::Eventfd);

    let tally = agrees_with_the_model(&helper, place.content(), plan.setup(4, true), plan);

    assert!(tally.compared > plan.requests / 4);
    helper.terminate();
}

#[test]
fn four_polled_queues_agree_with_the_model() {
    let place = Place::with_noise(DISK, 2);
    let helper = place.helper().start();
    let plan = plan(202, Notice::Polling);

    let tally = agrees_with_the_model(&helper, place.content(), plan.setup(4, true), plan);

    assert!(tally.compared > plan.requests / 4);
    helper.terminate();
}

#[test]
fn four_queues_without_event_idx_agree_with_the_model() {
    let place = Place::with_noise(DISK, 3);
    let helper = place.helper().start();
    let plan = plan(303, Notice::Eventfd);

    let tally = agrees_with_the_model(&helper, place.content(), plan.setup(4, false), plan);

    assert!(tally.compared > plan.requests / 4);
    helper.terminate();
}

#[test]
fn four_queues_on_four_threads_agree_with_the_model() {
    let place = Place::with_noise(DISK, 4);
    let helper = place.helper().value("--threads", "4").start();
    let plan = plan(404, Notice::Eventfd);

    let tally = agrees_with_the_model(&helper, place.content(), plan.setup(4, true), plan);

    assert!(tally.compared > plan.requests / 4);
    helper.terminate();
}

#[test]
fn four_queues_in_the_clear_agree_with_the_model() {
    let place = Place::with_noise(DISK, 8);
    let helper = place.helper().option("--no-encrypt").value("--threads", "4").start();
    let plan = plan(808, Notice::Eventfd);

    let tally = agrees_with_the_model(&helper, place.content(), plan.setup(4, true), plan);

    assert!(tally.compared > plan.requests / 4);
    helper.terminate();
}

/// Everything falls into sixteen clusters: all requests in flight are neighbours, and the fills race.
#[test]
fn a_tiny_disk_that_everybody_writes_to_agrees_with_the_model() {
    let place = Place::with_noise(16 * CLUSTER, 5);
    let helper = place.helper().value("--threads", "4").start();
    let plan = plan(505, Notice::Eventfd);

    let tally = agrees_with_the_model(&helper, place.content(), plan.setup(4, true), plan);

    assert!(tally.compared > plan.requests / 4);
    helper.terminate();
}

#[test]
fn one_queue_of_sixteen_agrees_with_the_model() {
    let place = Place::with_noise(1 << 20, 6);
    let helper = place.helper().start();
    let plan = Plan {
        requests: 5_000,
        ..plan(606, Notice::Eventfd)
    };

    let tally = agrees_with_the_model(&helper, place.content(), plan.setup(1, true), plan);

    assert!(tally.compared > plan.requests / 4);
    helper.terminate();
}

#[test]
fn sixteen_queues_agree_with_the_model() {
    let place = Place::with_noise(1 << 20, 7);
    let helper = place.helper().start();
    let plan = Plan {
        requests: 5_000,
        ..plan(707, Notice::Eventfd)
    };

    let tally = agrees_with_the_model(&helper, place.content(), plan.setup(16, true), plan);

    assert!(tally.compared > plan.requests / 4);
    helper.terminate();
}
