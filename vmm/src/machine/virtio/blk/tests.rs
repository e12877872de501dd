//! The disk against a backend that is written here message by message (vhost-user, "Message types"), so that it can also be a bad
//! one.

use super::super::driver::{Driver, memory};
use super::*;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;
const GET_CONFIG: u32 = 24;

/// MQ, REPLY_ACK and CONFIG.
const PROTOCOL: u64 = 1 << 0 | 1 << 3 | 1 << 9;
const ACKED: u64 = VERSION_1 | feature::FLUSH;
/// What starts one queue.
const STARTS: [u32; 6] = [
    SET_VRING_NUM,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_CALL,
    SET_VRING_KICK,
    SET_VRING_ENABLE,
];

/// A backend, by its answers.
#[derive(Clone)]
struct Fake {
    features: u64,
    protocol: u64,
    queues: u64,
    /// Messages that are answered with a failure.
    refuses: BTreeSet<u32>,
    /// The message at which it hangs up.
    hangs_up: Option<u32>,
}

/// One message as it came.
#[derive(Debug)]
struct Message {
    code: u32,
    body: Vec<u8>,
    file: Option<File>,
}

impl Message {
    fn word(&self, index: usize) -> u32 {
        let bytes = self.body[index * 4..][..4].try_into().unwrap();
        u32::from_le_bytes(bytes)
    }
}

impl Default for Fake {
    fn default() -> Self {
        let all = (1 << 0) | (1 << 4) | UNDERSTOOD | feature::PROTOCOL_FEATURES;
        Self {
            features: all & !(1 << 11),
            protocol: PROTOCOL,
            queues: 3,
            refuses: BTreeSet::new(),
            hangs_up: None,
        }
    }
}

impl Fake {
    /// Serves a connection until it ends; what it was told.
    fn serve(self, mut stream: UnixStream) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut header = [0; 12];
        while let Ok((12, file)) = stream.recv_with_fd(&mut header) {
            let word = |index: usize| u32::from_le_bytes(header[index..][..4].try_into().unwrap());
            let (code, flags, length) = (word(0), word(4), word(8));
            let mut body = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut body).unwrap();
            messages.push(Message { code, body, file });
            if self.hangs_up == Some(code) {
                break;
            }
            let answer = self.answer(messages.last().unwrap(), flags & 8 != 0);
            if let Some(answer) = answer {
                let size = u32::try_from(answer.len()).unwrap();
                let words = [code, 1 | 4, size].map(u32::to_le_bytes).concat();
                stream.write_all(&[words, answer].concat()).unwrap();
            }
        }
        messages
    }

    fn answer(&self, message: &Message, acknowledge: bool) -> Option<Vec<u8>> {
        let number = |number: u64| Some(number.to_le_bytes().to_vec());
        match message.code {
            GET_FEATURES => number(self.features),
            GET_PROTOCOL_FEATURES => number(self.protocol),
            GET_QUEUE_NUM => number(self.queues),
            GET_VRING_BASE => Some(message.body.clone()),
            GET_CONFIG => {
                let mut body = message.body.clone();
                let (_, config) = body.split_at_mut(12);
                config.copy_from_slice(&(0..60).collect::<Vec<u8>>());
                Some(body)
            }
            code if acknowledge => number(u64::from(self.refuses.contains(&code))),
            _ => None,
        }
    }

    /// A disk for four processors, served by this backend, and what becomes of the backend.
    fn disk(self) -> Result<(Blk, GuestMemoryMmap, JoinHandle<Vec<Message>>), BackendError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || self.serve(theirs));
        let offer = Offer::ask("disk 0".to_owned(), ours.into(), 4)?;
        let (ram, guest) = memory();
        let lines = Arc::new(Lines::unconnected(offer.queues()).unwrap());
        Ok((offer.accept(&ram, lines), guest, serving))
    }
}

fn codes(messages: &[Message]) -> Vec<u32> {
    messages.iter().map(|message| message.code).collect()
}

fn setup(memory: &GuestMemoryMmap) -> QueueSetup {
    Driver::new(memory, 0x1_0000, 256).setup()
}

#[test]
fn the_guest_sees_what_both_understand_and_our_number_of_queues() {
    let (disk, _, _) = Fake::default().disk().unwrap();

    assert_eq!(disk.offered(), UNDERSTOOD);
    assert_eq!(disk.queue_sizes(), [256; 3]);
    assert_eq!(disk.config().len(), 60);
    assert_eq!(disk.config()[..12], (0..12).collect::<Vec<u8>>()[..]);
    assert_eq!(disk.config()[12..16], 254_u32.to_le_bytes());
    assert_eq!(disk.config()[34..36], [3, 0]);
    assert_eq!(disk.config()[59], 59);
}

#[test]
fn there_are_no_more_queues_than_processors_or_than_the_guest_could_know_of() {
    let many = Fake {
        queues: 64,
        ..Fake::default()
    };
    assert_eq!(many.disk().unwrap().0.queue_sizes().len(), 4);

    let features = Fake::default().features & !feature::MQ;
    let unaware = Fake {
        features,
        queues: 64,
        ..Fake::default()
    };
    let (disk, _, _) = unaware.disk().unwrap();
    assert_eq!((disk.queue_sizes().len(), disk.config()[34]), (1, 1));
}

#[test]
fn a_backend_that_knows_no_acknowledgements_and_one_queue_will_do() {
    let plain = Fake {
        protocol: 1 << 9,
        ..Fake::default()
    };
    let (mut disk, memory, serving) = plain.disk().unwrap();
    assert_eq!(disk.queue_sizes().len(), 1);
    assert_eq!(disk.offered() & feature::MQ, 0);

    disk.activate(ACKED, &[setup(&memory)]).unwrap();
    disk.reset().unwrap();
    drop(disk);

    let started = [
        &[SET_FEATURES, SET_MEM_TABLE],
        &STARTS[..],
        &[SET_VRING_ENABLE, GET_VRING_BASE],
    ]
    .concat();
    assert!(codes(&serving.join().unwrap()).ends_with(&started));
}

#[test]
fn a_backend_of_another_kind_is_not_accepted() {
    let old = Fake {
        features: Fake::default().features & !VERSION_1,
        ..Fake::default()
    };
    let bare = Fake {
        features: VERSION_1,
        ..Fake::default()
    };
    let shy = Fake {
        protocol: PROTOCOL & !(1 << 9),
        ..Fake::default()
    };
    let empty = Fake {
        queues: 0,
        ..Fake::default()
    };
    for fake in [old, bare, shy, empty] {
        let error = fake.disk().err().unwrap();
        assert!(matches!(error, BackendError::Lacking(_)), "{error}");
    }
    let rude = Fake {
        hangs_up: Some(GET_CONFIG),
        ..Fake::default()
    };
    assert!(matches!(rude.disk().err().unwrap(), BackendError::Cut { .. }));
}

#[test]
fn a_queue_is_started_where_it_is_with_the_guests_own_lines() {
    let (mut disk, memory, serving) = Fake::default().disk().unwrap();
    let unready = QueueSetup {
        ready: false,
        ..setup(&memory)
    };
    let lines = Arc::clone(&disk.lines);
    disk.activate(ACKED, &[unready, setup(&memory)]).unwrap();
    drop(disk);

    let messages = serving.join().unwrap();
    let first = messages
        .iter()
        .position(|message| message.code == SET_FEATURES)
        .unwrap();
    let messages = &messages[first..];
    assert_eq!(codes(messages), [&[SET_FEATURES, SET_MEM_TABLE], &STARTS[..]].concat());
    let expected = ACKED | feature::PROTOCOL_FEATURES;
    assert_eq!(messages[0].body, expected.to_le_bytes());
    assert_eq!((messages[2].word(0), messages[2].word(1)), (1, 256));
    let host = |address| memory.get_host_address(GuestAddress(address)).unwrap().addr();
    let address = |index: usize| usize::from_le_bytes(messages[3].body[index..][..8].try_into().unwrap());
    assert_eq!(address(8), host(0x1_0000));
    assert_eq!(address(16), host(0x1_4000), "the used ring comes second");
    assert_eq!(address(24), host(0x1_2000));
    assert_eq!(messages[4].word(1), 0, "from the beginning");
    messages[5]
        .file
        .as_ref()
        .unwrap()
        .write_all(&1_u64.to_ne_bytes())
        .unwrap();
    messages[6]
        .file
        .as_ref()
        .unwrap()
        .write_all(&1_u64.to_ne_bytes())
        .unwrap();
    assert!(lines.call.read().is_ok() && lines.kicks[1].read().is_ok());
    assert_eq!((messages[7].word(0), messages[7].word(1)), (1, 1));
}

#[test]
fn a_driver_may_come_and_go() {
    let (mut disk, memory, serving) = Fake::default().disk().unwrap();
    for _ in 0..2 {
        disk.activate(ACKED, &[setup(&memory)]).unwrap();
        disk.reset().unwrap();
        disk.reset().unwrap();
    }
    drop(disk);

    let codes = codes(&serving.join().unwrap());
    let one = [
        &[SET_FEATURES, SET_MEM_TABLE],
        &STARTS[..],
        &[SET_VRING_ENABLE, GET_VRING_BASE],
    ]
    .concat();
    assert!(codes.starts_with(&[SET_OWNER]) && codes.contains(&SET_PROTOCOL_FEATURES));
    assert!(codes.ends_with(&[one.clone(), one].concat()));
}

#[test]
fn a_queue_outside_of_memory_or_unaligned_is_refused_without_a_word_to_the_backend() {
    let (mut disk, memory, serving) = Fake::default().disk().unwrap();
    let good = setup(&memory);
    let end = super::super::driver::MEMORY;
    let bad = [
        QueueSetup {
            descriptors: GuestAddress(end - 4080),
            ..good
        },
        QueueSetup {
            descriptors: GuestAddress(8),
            ..good
        },
        QueueSetup {
            driver: GuestAddress(u64::MAX - 1),
            ..good
        },
        QueueSetup {
            device: GuestAddress(0x1002),
            ..good
        },
        QueueSetup {
            device: GuestAddress(end - 2052),
            ..good
        },
    ];
    for setup in bad {
        let error = disk.activate(ACKED, &[setup]).unwrap_err();
        assert!(matches!(error, DeviceError::Refused(_)), "{setup:?}");
    }
    drop(disk);

    assert!(!codes(&serving.join().unwrap()).contains(&SET_FEATURES));
}

#[test]
fn a_backend_that_refuses_leaves_no_queue_running() {
    let refuses = [SET_VRING_ENABLE].into();
    let (mut disk, memory, serving) = Fake {
        refuses,
        ..Fake::default()
    }
    .disk()
    .unwrap();
    let error = disk.activate(ACKED, &[setup(&memory)]).unwrap_err();
    drop(disk);

    assert!(matches!(error, DeviceError::Gone { .. }), "it refuses to stop as well");
    assert_eq!(codes(&serving.join().unwrap()).last(), Some(&SET_VRING_ENABLE));

    let refuses = [SET_VRING_KICK].into();
    let (mut disk, memory, serving) = Fake {
        refuses,
        ..Fake::default()
    }
    .disk()
    .unwrap();
    let error = disk.activate(ACKED, &[setup(&memory)]).unwrap_err();
    drop(disk);

    assert!(matches!(error, DeviceError::Refused(_)));
    assert!(codes(&serving.join().unwrap()).ends_with(&[SET_VRING_KICK, SET_VRING_ENABLE, GET_VRING_BASE]));
}

#[test]
fn a_backend_that_goes_away_ends_the_run() {
    for code in [SET_FEATURES, SET_MEM_TABLE, SET_VRING_KICK] {
        let (mut disk, memory, _) = Fake {
            hangs_up: Some(code),
            ..Fake::default()
        }
        .disk()
        .unwrap();
        let error = disk.activate(ACKED, &[setup(&memory)]).unwrap_err();
        assert!(matches!(error, DeviceError::Gone { .. }), "{error}");
    }
    let (mut disk, memory, _) = Fake {
        hangs_up: Some(GET_VRING_BASE),
        ..Fake::default()
    }
    .disk()
    .unwrap();
    disk.activate(ACKED, &[setup(&memory)]).unwrap();
    assert!(matches!(disk.reset().unwrap_err(), DeviceError::Gone { .. }));
}

#[test]
fn every_descriptor_is_listed_once() {
    let (disk, _, _) = Fake::default().disk().unwrap();
    let listed = disk.descriptors();
    let numbers: BTreeSet<_> = listed.iter().map(|descriptor| descriptor.number).collect();

    assert_eq!(listed.len(), 3 + 1 + 2);
    assert_eq!(numbers.len(), listed.len());
    assert!(numbers.contains(&disk.connection().unwrap().as_raw_fd()));
}
