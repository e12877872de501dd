//! A save as a helper tells it, by a helper that says what the test wants.

use super::*;
use crate::keep::headway::IDLE_MAX;
use nix::sys::socket::{MsgFlags, recv, send};
use protocol::control::{BaseStatus, Confinement, Heard, Limits, MAX_BYTES, Request, SaveFormat, Status};
use std::os::fd::{AsRawFd, OwnedFd};

/// Both ends, and a save that was asked for.
struct Scene {
    channel: Channel,
    helper: OwnedFd,
    output: File,
    follow: Follow,
}

impl Scene {
    fn new() -> Self {
        let (mut channel, helper) = Channel::pair().unwrap();
        let output = tempfile::tempfile().unwrap();
        let request = SaveRequest {
            format: SaveFormat::Raw,
            backing: None,
        };
        let follow = Follow::begin(&mut channel, request, &output).unwrap();
        Self {
            channel,
            helper,
            output,
            follow,
        }
    }

    /// What the helper is asked next.
    fn asked(&mut self) -> Request {
        while self.follow.open.is_none() {
            std::thread::sleep(self.follow.wait());
            self.follow.tend(&mut self.channel).unwrap();
        }
        let mut packet = [0; MAX_BYTES];
        let length = recv(self.helper.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).unwrap();
        Request::decode(&packet[..length]).unwrap()
    }

    /// The helper says it, and it is heard.
    fn say(&mut self, reply: &Reply) -> Result<Option<SaveEnd>, ChannelError> {
        send(self.helper.as_raw_fd(), &reply.encode(), MsgFlags::empty()).unwrap();
        let Some(Heard::Reply(reply)) = self.channel.hear().unwrap() else {
            panic!("a reply was sent");
        };
        self.follow.hear(reply, &self.output)
    }

    /// The helper begins, and then says of the save that it is so.
    fn goes_on(&mut self, state: SaveState) -> Option<SaveEnd> {
        self.says(status(Some((1, state)), None))
    }

    /// The helper begins, and then says this.
    fn says(&mut self, status: Status) -> Option<SaveEnd> {
        if self.follow.save.is_none() {
            let request = self.asked();
            assert_eq!(
                self.say(&Reply::ok(request.id, Answer::Saving { number: 1 })).unwrap(),
                None
            );
        }
        let request = self.asked();
        assert_eq!(request.command, Command::Status);
        self.say(&Reply::ok(request.id, Answer::Status(Box::new(status))))
            .unwrap()
    }
}

fn status(save: Option<(u64, SaveState)>, previous: Option<(u64, SaveState)>) -> Status {
    let save_status = |(number, state)| SaveStatus {
        number,
        state,
        done_bytes: 1024,
        total_bytes: 4096,
        pause_us: 7,
    };
    Status {
        disk_bytes: 4096,
        connected: true,
        base: BaseStatus {
            device: 1,
            inode: 2,
            bytes: 4096,
        },
        overlay: None,
        limits: Limits {
            overlay_bytes: 0,
            iops: protocol::control::Rate::UNLIMITED,
            bandwidth: protocol::control::Rate::UNLIMITED,
            keep_free_bytes: 0,
            at_limit: protocol::control::AtLimit::Error,
        },
        save: save.map(save_status),
        previous_save: previous.map(save_status),
        confinement: Confinement::default(),
    }
}

#[test]
fn a_save_is_followed_to_its_end() {
    let mut scene = Scene::new();

    assert_eq!(scene.goes_on(SaveState::Running), None);
    assert_eq!(scene.follow.progress().map(|save| save.done_bytes), Some(1024));
    assert_eq!(scene.goes_on(SaveState::Running), None);
    scene.output.set_len(4096).unwrap();

    assert!(matches!(scene.goes_on(SaveState::Done), Some(SaveEnd::Done(save)) if save.pause_us == 7));
}

#[test]
fn every_other_end_is_told() {
    assert_eq!(
        Scene::new().goes_on(SaveState::Failed("EIO".into())),
        Some(SaveEnd::Failed("EIO".into()))
    );
    assert_eq!(Scene::new().goes_on(SaveState::Cancelled), Some(SaveEnd::Cancelled));
    let mut scene = Scene::new();
    let request = scene.asked();
    let end = scene.say(&Reply::error(Some(request.id), "busy")).unwrap();
    assert_eq!(end, Some(SaveEnd::Refused("busy".into())));
}

#[test]
fn a_file_that_cannot_be_the_disk_is_no_saved_disk() {
    for length in [0, 512, 4095, 4097] {
        let mut scene = Scene::new();
        scene.output.set_len(length).unwrap();

        assert!(
            matches!(scene.goes_on(SaveState::Done), Some(SaveEnd::Failed(_))),
            "{length}"
        );
    }
}

#[test]
fn somebody_elses_save_is_not_taken_for_ours() {
    let other = || Some((2, SaveState::Done));

    let ended = Scene::new().says(status(other(), Some((1, SaveState::Failed("EIO".into())))));
    assert_eq!(ended, Some(SaveEnd::Failed("EIO".into())));

    let mut scene = Scene::new();
    scene.output.set_len(4096).unwrap();
    let ended = scene.says(status(Some((2, SaveState::Running)), Some((1, SaveState::Done))));
    assert!(matches!(ended, Some(SaveEnd::Done(save)) if save.number == 1));

    let ended = Scene::new().says(status(Some((3, SaveState::Done)), other()));
    assert!(matches!(ended, Some(SaveEnd::Failed(_))));
}

#[test]
fn a_save_is_called_off_unless_it_has_ended() {
    let mut scene = Scene::new();
    scene.goes_on(SaveState::Running);
    scene.follow.cancel(&mut scene.channel).unwrap();
    let cancel = scene.follow.cancelling.unwrap();

    assert_eq!(
        scene.say(&Reply::error(Some(cancel), "there is no save")).unwrap(),
        None
    );

    scene.follow.cancel(&mut scene.channel).unwrap();
    let cancel = scene.follow.cancelling.unwrap();
    let end = scene.say(&Reply::ok(cancel, Answer::Cancelled)).unwrap();
    assert_eq!(end, Some(SaveEnd::Cancelled));
}

#[test]
fn nonsense_ends_it_and_what_answers_others_is_passed_over() {
    let mut scene = Scene::new();
    assert_eq!(scene.say(&Reply::ok(99, Answer::Reset)).unwrap(), None);
    let request = scene.asked();

    let outcome = scene.say(&Reply::ok(request.id, Answer::Reset));

    assert!(matches!(outcome, Err(ChannelError::Other)), "{outcome:?}");
}

#[test]
fn a_save_that_goes_on_for_ever_without_getting_on_has_failed() {
    let mut scene = Scene::new();
    assert_eq!(scene.goes_on(SaveState::Running), None);
    scene.follow.headway.rest(IDLE_MAX);

    let end = scene.goes_on(SaveState::Running);

    assert!(
        matches!(&end, Some(SaveEnd::Failed(why)) if why.contains("for 5 minutes")),
        "{end:?}"
    );
}

#[test]
fn a_save_that_goes_back_has_failed() {
    let mut scene = Scene::new();
    scene.goes_on(SaveState::Running);
    let mut back = status(Some((1, SaveState::Running)), None);
    back.save.as_mut().unwrap().done_bytes = 1023;

    assert!(matches!(scene.says(back), Some(SaveEnd::Failed(_))));
}
