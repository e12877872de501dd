//! Swap: a helper is made to give up all its memory, and what was swapped out is searched.
//!
//! With a swap area of the test's own, which comes before all others, and a control group to take the memory from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use tests::mounted::{Mounted, for_this_thread_only};
use tests::place::Place;
use tests::require;

use crate::COPIES;
use crate::media::copies_in;
use crate::memory::{MARK, marked_and_busy};

/// A swap area on a loop device over a file. One at a time on the whole machine: what is swapped out would go to either of two.
pub(crate) struct Swap {
    device: String,
    pub(crate) image: PathBuf,
    _turn: Flock<File>,
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

impl Swap {
    pub(crate) fn on(image: PathBuf) -> Option<Self> {
        let turn = Flock::lock(File::open("/proc/swaps").ok()?, FlockArg::LockExclusive).ok()?;
        File::create_new(&image).and_then(|file| file.set_len(64 << 20)).ok()?;
        let device = run("losetup", &["--find", "--show", image.to_str()?])?;
        let swap = Self {
            device,
            image,
            _turn: turn,
        };
        run("mkswap", &[&swap.device])?;
        run("swapon", &["--priority", "32767", &swap.device])?;
        Some(swap)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        run("swapoff", &[&self.device]);
        run("losetup", &["--detach", &self.device]);
    }
}

/// A control group for memory, of either version.
pub(crate) struct Group {
    dir: PathBuf,
}

impl Group {
    pub(crate) fn new(name: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(PathBuf::from);
        let dir = roots
            .into_iter()
            .find(|root| root.join("cgroup.procs").exists())?
            .join(name);
        fs::create_dir(&dir).ok()?;
        let group = Self { dir };
        ["memory.force_empty", "memory.reclaim"]
            .iter()
            .any(|file| group.dir.join(file).exists())
            .then_some(group)
    }

    /// Takes away what memory can be taken away. The kernel says that it could not take all, which is so.
    pub(crate) fn reclaim(&self) {
        let _ = fs::write(self.dir.join("memory.force_empty"), "0");
        if self.dir.join("memory.reclaim").exists() {
            let _ = fs::write(self.dir.join("memory.reclaim"), "1G");
        }
    }

    /// What starts a program in it.
    pub(crate) fn launcher(&self) -> Vec<String> {
        let procs = self.dir.join("cgroup.procs").display().to_string();
        ["sh", "-c", r#"echo $$ >"$0" && exec "$@""#]
            .map(str::to_owned)
            .into_iter()
            .chain([procs])
            .collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Kibibytes of process `status` that are swapped out.
pub(crate) fn swapped(status: &Path) -> u64 {
    let status = fs::read_to_string(status).expect("root may look");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSwap:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("the kernel has swap")
}

/// How many copies of a mark are in the swap area once a helper on a tmpfs, which many went through, gave up its memory; and
/// how much of its own that was. It is asked for it until `expected` are there, five times at least: a page that is just being
/// used stays.
fn swapped_out(options: &[&str], expected: usize) -> Option<(usize, u64)> {
    for_this_thread_only();
    let place = Place::with_noise(COPIES * 8192, 1);
    let _tmpfs = Mounted::tmpfs(&place.overlay_dir(), "64m");
    let group = Group::new(&format!("mayfly-{}-{}", std::process::id(), options.len()))?;
    let swap = Swap::on(place.dir().join("swap"))?;
    let helper = options
        .iter()
        .fold(place.helper(), |helper, option| helper.option(option))
        .behind(group.launcher())
        .start();
    let _client = marked_and_busy(&helper);

    let mut found = 0;
    let mut kibibytes = 0;
    for round in 0..100 {
        group.reclaim();
        kibibytes = swapped(&helper.proc("status"));
        found = copies_in(&swap.image, &MARK);
        if round >= 4 && found >= expected && kibibytes > 0 {
            break;
        }
    }
    helper.terminate();
    Some((found, kibibytes))
}

#[test]
fn swap_has_nothing_that_a_guest_wrote() {
    require!(root);
    let Some((plain, _)) = swapped_out(&["--no-encrypt"], COPIES / 2) else {
        require::skip("needs loop devices, swap, and a control group for memory");
        return;
    };
    assert!(plain >= COPIES / 2, "the test looks in the wrong place: {plain}");

    let (found, kibibytes) = swapped_out(&[], 0).expect("it was possible just now");

    assert!(kibibytes > 0, "nothing of the helper's was swapped out");
    assert_eq!(found, 0);
}
