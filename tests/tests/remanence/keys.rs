//! The key, hunted for by who knows what key schedules look like, with root's rights.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use protocol::control::Command;
use tests::client::{Client, Setup};
use tests::helper::Helper;
use tests::memories::{Mapping, mappings, unread, which};
use tests::operator::Operator;
use tests::place::Place;
use tests::require;
use tests::rng::Rng;
use tests::schedules::{Found, KEY, SCHEDULE, expand, find};

/// Starts a program to which the kernel says that it has no secret memory.
pub(crate) const WITHOUT_SECRETS: [&str; 10] = [
    "strace",
    "-D",
    "-f",
    "-qqq",
    "-o",
    "/dev/null",
    "-e",
    "trace=memfd_secret",
    "-e",
    "inject=memfd_secret:error=ENOSYS",
];

/// All schedules in a mapping.
pub(crate) fn schedules(mapping: &Mapping) -> Vec<Found> {
    mapping.pieces.iter().flat_map(|piece| find(piece)).collect()
}

/// What may give a key away: each 16 bytes of the schedules in a mapping as they lie there. The key's own halves are among them.
pub(crate) fn round_keys(mapping: &Mapping) -> BTreeSet<[u8; 16]> {
    let places = mapping.pieces.iter().flat_map(|piece| {
        find(piece)
            .into_iter()
            .map(|found| &piece[found.at..found.at + SCHEDULE])
    });
    places
        .flat_map(|schedule| schedule.as_chunks::<16>().0)
        .copied()
        .collect()
}

/// Whether a text has these bytes, in a way in which programs print such.
fn tells(text: &str, bytes: &[u8; 16]) -> bool {
    let hex = |digits: &mut dyn Iterator<Item = &u8>| digits.map(|byte| format!("{byte:02x}")).collect::<String>();
    let list = |printed: String| printed.trim_matches(['[', ']']).to_owned();
    let text = text.to_lowercase();
    [
        hex(&mut bytes.iter()),
        hex(&mut bytes.iter().rev()),
        list(format!("{bytes:?}")),
        list(format!("{bytes:02x?}")),
    ]
    .iter()
    .any(|printed| text.contains(printed))
}

/// Some of everything that uses the key: whole clusters and parts of them, written and read, by each queue's worker.
pub(crate) fn busy(helper: &Helper) -> Client {
    let mut client = Client::connect(helper.socket(), Setup::default());
    for index in 0..64 {
        client.write(index * 8192, &[7; 4096]);
        client.write(index * 8192 + 4096, &[8; 512]);
        client.read(index * 8192, 8192);
    }
    client
}

/// The finder's own test in a real process: this one.
#[test]
fn a_key_in_a_process_like_any_other_is_found() {
    require!(root);
    let key: [u8; KEY] = Rng::new(5).bytes(KEY).try_into().unwrap();
    let planted = Box::new(expand(&key));

    let all = mappings(nix::unistd::getpid());

    let found = all.iter().flat_map(schedules).filter(|found| found.key == key).count();
    assert!(found >= 1, "{} mappings", all.len());
    assert_eq!(*planted, expand(&key));
}

#[test]
fn not_even_root_reads_a_key_that_is_in_secret_memory() {
    require!(root);
    let place = Place::with_noise(4 << 20, 1);
    let helper = place.helper().start();
    let _client = busy(&helper);
    let all = mappings(helper.pid());
    let Some(secret) = all.iter().find(|mapping| mapping.is_secret()) else {
        require::skip("needs a kernel with memfd_secret");
        return;
    };

    assert!(secret.refused && secret.pieces.is_empty(), "root read secret memory");
    let file = format!("map_files/{:x}-{:x}", secret.addresses.start, secret.addresses.end);
    File::open(helper.proc(&file)).expect_err("its file is no way in either");
    assert_eq!(unread(&all), [""; 0], "nobody looked at these");
    assert_eq!(all.iter().flat_map(schedules).collect::<Vec<_>>(), []);
    helper.terminate();
}

/// With memory that is only locked, root sees the key there. So it can be looked for everywhere else, in whole and in part.
#[test]
fn what_is_known_of_the_key_is_nowhere_but_in_its_memory() {
    require!(root);
    let place = Place::with_noise(4 << 20, 1);
    let helper = place.helper().option("--verbose").behind(WITHOUT_SECRETS).start();
    // What is logged, is logged: about one who speaks nonsense, too.
    UnixStream::connect(helper.socket())
        .unwrap()
        .write_all(&[0xff; 64])
        .unwrap();
    let _client = busy(&helper);

    let all = mappings(helper.pid());
    assert_eq!(unread(&all), [""; 0], "nobody looked at these");
    let (theirs, others): (Vec<_>, Vec<_>) = all.iter().partition(|mapping| !schedules(mapping).is_empty());
    assert_eq!(theirs.len(), 1, "mappings with keys, of {}", all.len());
    assert!(theirs[0].is("lo") && theirs[0].is("dd"), "{:?}", theirs[0].flags);
    let mut keys: Vec<_> = schedules(theirs[0]).into_iter().map(|found| found.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 2, "one for the blocks, one for the tweaks");

    let pieces = round_keys(theirs[0]);
    let halves = keys.iter().flat_map(|key| key.as_chunks::<16>().0);
    assert!(halves.clone().all(|half| pieces.contains(half)));
    assert!(pieces.len() >= 2 * SCHEDULE / 16, "{}", pieces.len());

    let report = helper.report().to_string();
    let mut raw = vec![fs::read(overlay_of(&helper)).unwrap()];
    raw.extend(["environ", "cmdline"].map(|file| fs::read(helper.proc(file)).unwrap()));
    helper.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = helper.wait_within(Duration::from_secs(20));
    let texts = [report, ended.stdout, ended.stderr].concat();
    assert!(texts.contains("blk-helper"), "nobody said anything: {texts}");
    raw.push(texts.clone().into_bytes());
    raw.extend(others.iter().flat_map(|mapping| mapping.pieces.iter().cloned()));
    for bytes in raw {
        assert_eq!(which(&bytes, &pieces), BTreeSet::new());
    }
    assert!(
        !pieces.iter().any(|piece| tells(&texts, piece)),
        "a key in what was printed"
    );
}

#[test]
fn bytes_that_somebody_printed_are_seen() {
    let bytes: [u8; 16] = Rng::new(3).bytes(16).try_into().unwrap();
    let number = u128::from_le_bytes(bytes);
    for text in [
        format!("the key is {bytes:?}"),
        format!("{bytes:02X?}"),
        format!("Key({:032x})", number),
        format!("{:#X}", number.swap_bytes()),
    ] {
        assert!(tells(&text, &bytes), "{text}");
        assert!(!tells(&text, &[9; 16]), "{text}");
    }
}

/// The overlay in use, for root. What a reset retired is emptied a moment later.
fn overlay_of(helper: &Helper) -> PathBuf {
    let is_ours = |path: &PathBuf| {
        let target = fs::read_link(path).unwrap_or_default();
        let has_content = fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0);
        has_content && target.to_string_lossy().ends_with("(deleted)") && target.to_string_lossy().contains("overlay")
    };
    let begun = Instant::now();
    loop {
        let descriptors = fs::read_dir(helper.proc("fd")).expect("root may look");
        let paths = descriptors.flatten().map(|entry| entry.path());
        if let [overlay] = &paths.filter(is_ours).collect::<Vec<_>>()[..] {
            return overlay.clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "one overlay has a length");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Resets as soon as that is possible: the guest has to leave.
fn reset(operator: &Operator) {
    let begun = Instant::now();
    while let Err(refused) = operator.ask(Command::Reset, &[]) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{refused}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How many of the cipher's blocks are the same in both.
fn equal_blocks(one: &[u8], other: &[u8]) -> usize {
    let pairs = one.as_chunks::<16>().0.iter().zip(other.as_chunks::<16>().0);
    pairs.filter(|(one, other)| one == other).count()
}

#[test]
fn after_a_reset_the_old_ciphertext_is_worth_nothing() {
    require!(root);
    let place = Place::with_noise(4 << 20, 1);
    let (operator, theirs) = Operator::pair();
    let helper = place.helper().operated(theirs).start();
    let bytes = b"always the same".repeat(4096 / 15 + 1)[..4096].to_vec();
    let write = || {
        let mut client = Client::connect(helper.socket(), Setup::default());
        client.write(0, &bytes);
        let path = overlay_of(&helper);
        (client, path.clone(), fs::read(path).unwrap())
    };

    let (client, _, before) = write();
    drop(client);
    reset(&operator);
    let (mut client, path, after) = write();

    assert_eq!((before.len(), after.len()), (4096, 4096));
    assert_eq!(
        equal_blocks(&before, &after),
        0,
        "blocks that are the same under both keys"
    );
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(&before, 0)
        .unwrap();
    let read = client.read(0, 4096);
    assert_eq!(equal_blocks(&read, &bytes), 0, "blocks that the disk can still decrypt");
    helper.terminate();
}
