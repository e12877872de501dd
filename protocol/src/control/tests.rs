//! Messages of the control channel: what they look like, and what is refused.

use super::*;
use proptest::prelude::*;

fn status() -> Status {
    Status {
        disk_bytes: 1 << 30,
        connected: true,
        base: BaseStatus {
            device: 2049,
            inode: 1234,
            bytes: 1 << 30,
        },
        overlay: Some(OverlayStatus {
            dirty_clusters: 3,
            zero_clusters: 2,
            used_bytes: 3 * 4096,
            limit_bytes: 1 << 20,
            disk_usage_bytes: 3 * 4096,
            map_bytes: 4096,
            map_limit_bytes: 1 << 20,
            encrypted: true,
        }),
        limits: limits(),
        save: None,
        previous_save: None,
        confinement: Confinement {
            in_force: vec!["seccomp".into()],
            missing: vec!["network".into()],
        },
    }
}

fn limits() -> Limits {
    Limits {
        overlay_bytes: 1 << 20,
        iops: Rate {
            per_second: 1000,
            burst: 2000,
        },
        bandwidth: Rate::UNLIMITED,
        keep_free_bytes: 5 << 30,
        at_limit: AtLimit::Hold,
    }
}

/// One request for each command.
fn commands() -> Vec<Command> {
    vec![
        Command::Attach,
        Command::Status,
        Command::Stats,
        Command::Events,
        Command::Save(SaveRequest {
            format: SaveFormat::Raw,
            backing: None,
        }),
        Command::Save(SaveRequest {
            format: SaveFormat::Qcow2Delta,
            backing: Some("debian.raw".into()),
        }),
        Command::CancelSave,
        Command::Reset,
        Command::SetLimits(LimitsChange {
            overlay_bytes: Some(1 << 30),
            iops: Some(Rate {
                per_second: 1000,
                burst: 2000,
            }),
            bandwidth: Some(Rate::UNLIMITED),
            keep_free_bytes: Some(0),
            at_limit: Some(AtLimit::Hold),
        }),
        Command::SetLimits(LimitsChange {
            at_limit: Some(AtLimit::Error),
            ..LimitsChange::default()
        }),
        Command::Resize(ResizeRequest { disk_bytes: 2 << 30 }),
        Command::Stop,
    ]
}

fn save(state: SaveState) -> SaveStatus {
    SaveStatus {
        number: 1,
        state,
        done_bytes: 4096,
        total_bytes: 1 << 30,
        pause_us: 800,
    }
}

/// One of each answer.
fn answers() -> Vec<Answer> {
    let mut read_only = status();
    read_only.overlay = None;
    let mut saving = status();
    saving.save = Some(save(SaveState::Running));
    let mut failed = status();
    failed.save = Some(save(SaveState::Failed("no space left".into())));
    vec![
        Answer::Attached,
        Answer::Status(Box::new(status())),
        Answer::Status(Box::new(read_only)),
        Answer::Status(Box::new(saving)),
        Answer::Status(Box::new(failed)),
        Answer::Stats(Box::default()),
        Answer::Subscribed,
        Answer::Saving { number: 1 },
        Answer::Cancelled,
        Answer::Reset,
        Answer::Limited(limits()),
        Answer::Resized,
        Answer::Stopping,
    ]
}

/// One of each event.
fn events() -> Vec<Event> {
    vec![
        Event::Connected,
        Event::Disconnected,
        Event::QuotaReached { limit_bytes: 1 << 20 },
        Event::SpaceLow {
            free_bytes: 4 << 30,
            keep_free_bytes: 5 << 30,
        },
        Event::BaseChanged,
        Event::Reset,
        Event::Saved { number: 1 },
        Event::SaveCancelled { number: 1 },
        Event::SaveFailed {
            number: 1,
            reason: "no space left".into(),
        },
        Event::Resized { disk_bytes: 2 << 30 },
        Event::LimitsChanged { limits: limits() },
    ]
}

fn text(packet: &[u8]) -> &str {
    std::str::from_utf8(packet).unwrap()
}

fn refused(packet: &str) -> BadRequest {
    Request::decode(packet.as_bytes()).unwrap_err()
}

#[test]
fn messages_look_as_documented() {
    let requests = (7..)
        .zip(commands())
        .map(|(id, command)| Request::new(id, command).encode());
    let replies = [
        Reply::ok(7, Answer::Attached),
        Reply::ok(8, Answer::Status(Box::new(status()))),
        Reply::ok(9, Answer::Stats(Box::default())),
        Reply::ok(10, Answer::Subscribed),
        Reply::ok(11, Answer::Saving { number: 1 }),
        Reply::ok(13, Answer::Cancelled),
        Reply::ok(14, Answer::Reset),
        Reply::ok(15, Answer::Limited(limits())),
        Reply::ok(17, Answer::Resized),
        Reply::ok(18, Answer::Stopping),
        Reply::error(Some(7), "busy: a frontend is connected"),
    ];
    let replies = replies.iter().map(Reply::encode);
    let notices = events().into_iter().map(|event| Notice { event, missed: 0 }.encode());

    let documentation = include_str!("../../../docs/control.md");
    for packet in requests.chain(replies).chain(notices) {
        assert!(
            documentation.contains(text(&packet)),
            "docs/control.md lacks {}",
            text(&packet)
        );
    }
    assert_eq!(text(&Reply::error(None, "what?").encode()), r#"{"error":"what?"}"#);
}

#[test]
fn what_is_sent_is_what_arrives() {
    for command in commands() {
        let request = Request::new(u64::MAX, command);
        assert_eq!(Request::decode(&request.encode()).unwrap(), request);
    }
    let errors = [Reply::error(Some(3), "no"), Reply::error(None, "")];
    for reply in answers()
        .into_iter()
        .map(|answer| Reply::ok(u64::MAX, answer))
        .chain(errors)
    {
        assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
        assert_eq!(Heard::decode(&reply.encode()).unwrap(), Heard::Reply(reply));
    }
    for event in events() {
        let notice = Notice {
            event,
            missed: u64::MAX,
        };
        assert_eq!(Heard::decode(&notice.encode()).unwrap(), Heard::Notice(notice));
    }
}

#[test]
fn an_event_that_nobody_knows_yet_is_one_all_the_same() {
    let heard = Heard::decode(br#"{"event":{"kind":"eclipse","moon":1},"missed":2,"sky":"dark"}"#).unwrap();

    let event = Event::Unknown;
    assert_eq!(heard, Heard::Notice(Notice { event, missed: 2 }));
}

#[test]
fn the_longest_messages_fit() {
    let long = "\u{1}\"".repeat(2000);
    let latency = Latency {
        sum_us: u64::MAX,
        buckets: [u64::MAX; LATENCY_BUCKETS],
    };
    let count = Count {
        requests: u64::MAX,
        bytes: u64::MAX,
        errors: u64::MAX,
    };
    let stats = Stats {
        serving_us: u64::MAX,
        read: count,
        write: count,
        discard: count,
        write_zeroes: count,
        flush: count,
        get_id: count,
        malformed: u64::MAX,
        read_latency: latency,
        write_latency: latency,
        throttled_us: u64::MAX,
        held_us: u64::MAX,
        events_dropped: u64::MAX,
    };
    let mut failed = status();
    failed.save = Some(save(SaveState::Failed(long.clone())));
    failed.previous_save = failed.save.clone();
    let replies = [
        Reply::ok(u64::MAX, Answer::Stats(Box::new(stats))),
        Reply::ok(u64::MAX, Answer::Status(Box::new(failed))),
        Reply::error(Some(u64::MAX), &long),
    ];
    let notice = Notice {
        event: Event::SaveFailed {
            number: u64::MAX,
            reason: long,
        },
        missed: u64::MAX,
    };
    let save = Command::Save(SaveRequest {
        format: SaveFormat::Qcow2Delta,
        backing: Some("\u{1}".repeat(1023)),
    });

    for reply in replies {
        Reply::decode(&reply.encode()).unwrap();
    }
    Heard::decode(&notice.encode()).unwrap();
    Request::decode(&Request::new(u64::MAX, save).encode()).unwrap();
}

#[test]
fn a_request_is_understood_exactly_or_not_at_all() {
    for packet in [
        "",
        "null",
        "[]",
        "{",
        r#"{"version":1}"#,
        r#"{"version":1,"id":1}"#,
        r#"{"version":1,"id":1,"command":"burn"}"#,
        r#"{"version":1,"id":1,"command":{"attach":{}}}"#,
        r#"{"version":1,"id":1,"command":"attach","soon":true}"#,
        r#"{"version":1,"id":1,"id":2,"command":"attach"}"#,
        r#"{"version":1,"id":-1,"command":"attach"}"#,
        r#"{"version":1,"id":1,"command":"attach"} {}"#,
        r#"{"version":1,"id":1,"command":"save"}"#,
        r#"{"version":1,"id":1,"command":{"save":{"format":"vhd"}}}"#,
        r#"{"version":1,"id":1,"command":{"save":{"format":"raw","path":"/etc/passwd"}}}"#,
        r#"{"version":1,"id":1,"command":{"resize":{"disk_bytes":-1}}}"#,
        r#"{"version":1,"id":1,"command":{"set-limits":{"overlay-bytes":1}}}"#,
        r#"{"version":1,"id":1,"command":{"set-limits":{"iops":{"per_second":1,"burst":1,"more":1}}}}"#,
        r#"{"version":1,"id":1,"command":{"set-limits":{"at_limit":"burn"}}}"#,
        r#"{"version":1,"id":1,"command":{"stop":{},"reset":{}}}"#,
    ] {
        assert!(matches!(refused(packet).error, MessageError::Json(_)), "{packet}");
    }
}

#[test]
fn a_request_that_is_refused_keeps_its_number() {
    assert_eq!(refused(r#"{"version":1,"id":5,"command":"burn"}"#).id, Some(5));
    assert_eq!(refused(r#"{"id":5}"#).id, None);
}

#[test]
fn another_version_is_called_that_whatever_else_it_says() {
    let bad = refused(r#"{"version":2,"id":5,"command":{"dance":[]},"mood":"good"}"#);

    assert_eq!(bad.id, Some(5));
    assert!(matches!(bad.error, MessageError::Version(2)));
}

#[test]
fn a_message_has_a_longest_length() {
    let mut packet = Request::new(1, Command::Status).encode();
    packet.resize(MAX_BYTES, b' ');
    Request::decode(&packet).unwrap();

    packet.push(b' ');

    assert!(matches!(
        Request::decode(&packet).unwrap_err().error,
        MessageError::TooLong
    ));
    assert!(matches!(Reply::decode(&packet), Err(MessageError::TooLong)));
}

#[test]
fn a_reply_may_say_more_than_is_known() {
    let reply = Reply::ok(1, Answer::Status(Box::new(status())));
    let packet = String::from_utf8(reply.encode()).unwrap();

    let more =
        packet
            .replacen(r#""inode""#, r#""mood":"good","inode""#, 1)
            .replacen(r#""ok""#, r#""took_ms":3,"ok""#, 1);

    assert_eq!(more.len(), packet.len() + 26);
    assert_eq!(Reply::decode(more.as_bytes()).unwrap(), reply);
}

#[test]
fn an_error_cannot_steer_a_terminal() {
    let reply = Reply::decode(br#"{"error":"\u001b[2Jno\nmore\u009b1m"}"#).unwrap();

    assert_eq!(reply.outcome, Outcome::Error(" [2Jno more 1m".into()));
    let turned = Reply::error(None, "saved \u{202e}war.ko\u{2069} \u{200b}");
    assert_eq!(turned.encode(), br#"{"error":"saved  war.ko   "}"#);
    let notice = br#"{"event":{"kind":"save-failed","number":1,"reason":"\u001b[2J"},"missed":0}"#;
    let reason = " [2J".to_owned();
    let event = Event::SaveFailed { number: 1, reason };
    assert_eq!(
        Heard::decode(notice).unwrap(),
        Heard::Notice(Notice { event, missed: 0 })
    );
}

proptest! {
    #[test]
    fn nothing_that_arrives_does_harm(packet in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(&packet);
        let _ = Reply::decode(&packet);
        let _ = Heard::decode(&packet);
    }

    #[test]
    fn a_reply_always_fits(words in ".{0,3000}") {
        let packet = Reply::error(Some(u64::MAX), &words).encode();

        prop_assert!(packet.len() <= MAX_BYTES);
        Reply::decode(&packet).unwrap();
    }
}
