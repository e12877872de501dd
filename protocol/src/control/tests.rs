//! Messages of the control channel: what they look like, and what is refused.

use super::*;
use proptest::prelude::*;

const STATUS: Status = Status {
    disk_bytes: 1 << 30,
    connected: true,
    overlay: Some(OverlayStatus {
        dirty_clusters: 3,
        used_bytes: 3 * 4096,
        limit_bytes: 1 << 20,
    }),
};

fn text(packet: &[u8]) -> &str {
    std::str::from_utf8(packet).unwrap()
}

fn refused(packet: &str) -> BadRequest {
    Request::decode(packet.as_bytes()).unwrap_err()
}

#[test]
fn messages_look_as_documented() {
    let packets = [
        Request::new(7, Command::Attach).encode(),
        Request::new(8, Command::Status).encode(),
        Reply::ok(7, Answer::Attached).encode(),
        Reply::ok(8, Answer::Status(STATUS)).encode(),
        Reply::error(Some(9), "busy: a frontend is connected").encode(),
    ];

    let documentation = include_str!("../../../docs/control.md");
    for packet in &packets {
        assert!(
            documentation.contains(text(packet)),
            "docs/control.md lacks {}",
            text(packet)
        );
    }
    assert_eq!(text(&Reply::error(None, "what?").encode()), r#"{"error":"what?"}"#);
}

#[test]
fn what_is_sent_is_what_arrives() {
    for command in [Command::Attach, Command::Status] {
        let request = Request::new(u64::MAX, command);
        assert_eq!(Request::decode(&request.encode()).unwrap(), request);
    }
    let read_only = Status {
        overlay: None,
        ..STATUS
    };
    for reply in [
        Reply::ok(1, Answer::Attached),
        Reply::ok(0, Answer::Status(STATUS)),
        Reply::ok(2, Answer::Status(read_only)),
        Reply::error(Some(3), "no"),
        Reply::error(None, ""),
    ] {
        assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
    }
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
    let reply =
        r#"{"id":1,"took_ms":3,"ok":{"status":{"disk_bytes":512,"connected":false,"overlay":null,"mood":"good"}}}"#;

    let status = Status {
        disk_bytes: 512,
        connected: false,
        overlay: None,
    };
    assert_eq!(
        Reply::decode(reply.as_bytes()).unwrap(),
        Reply::ok(1, Answer::Status(status))
    );
}

#[test]
fn an_error_cannot_steer_a_terminal() {
    let reply = Reply::decode(br#"{"error":"\u001b[2Jno\nmore\u009b1m"}"#).unwrap();

    assert_eq!(reply.outcome, Outcome::Error(" [2Jno more 1m".into()));
}

proptest! {
    #[test]
    fn nothing_that_arrives_does_harm(packet in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(&packet);
        let _ = Reply::decode(&packet);
    }

    #[test]
    fn a_reply_always_fits(words in ".{0,3000}") {
        let packet = Reply::error(Some(u64::MAX), &words).encode();

        prop_assert!(packet.len() <= MAX_BYTES);
        Reply::decode(&packet).unwrap();
    }
}
