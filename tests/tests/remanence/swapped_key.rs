//! The key, hunted for in swap: a helper is made to give up its memory, as in `swap`, and the device is searched.
//!
//! Afterwards a program like any other, in the same control group and with the same key in ordinary memory, is swapped out in
//! the same way: the search finds all of it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::helper::Helper;
use tests::memories::{mappings, which};
use tests::mounted::{Mounted, for_this_thread_only};
use tests::place::Place;
use tests::require;
use tests::rng::Rng;
use tests::schedules::{KEY, expand, find};

use crate::keys::{WITHOUT_SECRETS, busy, round_keys, schedules};
use crate::swap::{Group, Swap, swapped};

const PAGE: usize = 4096;

/// Keeps what it is fed in memory like any other, and waits for more.
const HOLDER: [&str; 6] = [
    "dd",
    "bs=1M",
    "iflag=fullblock",
    "count=1",
    "of=/dev/null",
    "status=none",
];

/// A key, and all that is to be looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Secret {
    keys: BTreeSet<[u8; KEY]>,
    pieces: BTreeSet<[u8; 16]>,
}

impl Secret {
    /// The helper's, as far as root sees it.
    fn of(helper: &Helper) -> Self {
        let mut secret = Self::default();
        for mapping in mappings(helper.pid()) {
            secret.keys.extend(schedules(&mapping).iter().map(|found| found.key));
            secret.pieces.extend(round_keys(&mapping));
        }
        secret
    }

    /// One of nobody's.
    fn invented() -> Self {
        let key = Rng::new(7).bytes(KEY).try_into().expect("as many as asked for");
        Self {
            keys: BTreeSet::from([key]),
            pieces: expand(&key).as_chunks::<16>().0.iter().copied().collect(),
        }
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What of it, and of any other key's schedule, is in a swap area. Page by page: neighbours there are none in memory.
    fn found_in(&self, image: &Path) -> Self {
        let bytes = std::fs::read(image).expect("it is the test's own file");
        let pages = bytes.chunks(PAGE).filter(|page| *page != [0; PAGE]);
        let mut found = Self::default();
        for page in pages {
            found.keys.extend(find(page).into_iter().map(|found| found.key));
            found.pieces.extend(which(page, &self.pieces));
        }
        found
    }
}

/// A program that has a secret in ordinary memory.
struct Holder(Child);

impl Holder {
    fn start(group: &Group, secret: &Secret) -> Self {
        let schedules = secret.keys.iter().map(expand);
        let mut page: Vec<u8> = schedules.flatten().collect();
        page.extend(secret.pieces.iter().flatten());
        assert!(page.len() <= PAGE, "{} bytes", page.len());
        page.resize(PAGE, 0xa5);
        let launcher = group.launcher();
        let mut child = Command::new(&launcher[0])
            .args(&launcher[1..])
            .args(HOLDER)
            .stdin(Stdio::piped())
            .spawn()
            .expect("every system has dd");
        // As much as a pipe takes at once. It stays open.
        let pipe = child.stdin.as_mut().expect("it is a pipe");
        pipe.write_all(&page.repeat(16)).expect("it listens");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A helper behind `words` gives up its memory; false if that cannot be tried here.
fn gives_up_no_key(words: &[&str]) -> bool {
    for_this_thread_only();
    let place = Place::with_noise(4 << 20, 1);
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "64m");
    let Some(group) = Group::new(&format!("mayfly-{}-key-{}", std::process::id(), words.len())) else {
        return false;
    };
    let Some(swap) = Swap::on(place.dir().join("swap")) else {
        return false;
    };
    let launcher = group
        .launcher()
        .into_iter()
        .chain(words.iter().map(|word| (*word).to_owned()));
    let helper = place.helper().behind(launcher).start();
    let client = busy(&helper);
    let mut kibibytes = 0;
    for round in 0..100 {
        group.reclaim();
        kibibytes = swapped(&helper.proc("status"));
        if round >= 4 && kibibytes > 0 {
            break;
        }
    }
    assert!(kibibytes > 0, "nothing of the helper's was swapped out");
    // Only now: what is looked at comes back from swap, and stays. A copy in swap remains.
    let theirs = Secret::of(&helper);
    assert!(words.is_empty() || theirs.keys.len() == 2, "{} keys", theirs.keys.len());
    drop(client);
    helper.terminate();
    assert!(theirs.found_in(&swap.image).is_none(), "a key in swap");

    let secret = if theirs.is_none() { Secret::invented() } else { theirs };
    let _holder = Holder::start(&group, &secret);
    let mut found = Secret::default();
    for _ in 0..20 {
        // A search takes long, and once is seldom enough.
        (0..5).for_each(|_| group.reclaim());
        found = secret.found_in(&swap.image);
        if found == secret {
            break;
        }
    }
    assert_eq!(found, secret, "the test looks in the wrong place");
    true
}

#[test]
fn swap_has_no_part_of_a_key_that_is_only_locked() {
    require!(root);
    if !gives_up_no_key(&WITHOUT_SECRETS) {
        require::skip("needs loop devices, swap, and a control group for memory");
    }
}

/// Nobody knows which key. But no other one should be there either.
#[test]
fn swap_has_no_key_of_a_helper_as_it_comes() {
    require!(root);
    if !gives_up_no_key(&[]) {
        require::skip("needs loop devices, swap, and a control group for memory");
    }
}
