//! What nothing can be faster than: one thread that does only the system calls, and the driver on a device that does nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ::tests::memory::GuestMemory;
use ::tests::rng::Rng;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::disk::LONGEST;
use crate::failure::Failure;
use crate::load::{Pattern, Stream};
use crate::ring::{Mode, Ring, null_device};

const BLOCK: usize = 4096;

/// A floor's name, and how many a second.
pub(crate) type Floor = (&'static str, f64);

/// All floors, each for `window`.
pub(crate) fn all(base: &Path, dir: &Path, window: Duration) -> Result<Vec<Floor>, Failure> {
    let doing = |what: &'static str| move |source| Failure::while_doing::<std::io::Error>(what)(source);
    let base = File::open(base).map_err(doing("open the base"))?;
    let span = base.metadata().map_err(doing("look at the base"))?.len();
    let scratch = dir.join("floor");
    let file = File::create_new(&scratch).map_err(doing("make a file for the floors"))?;
    std::fs::remove_file(&scratch).map_err(doing("remove the file of the floors"))?;
    let mut block = Rng::new(3).bytes(BLOCK);

    let reads = rate(window, random(span), |at| base.read_exact_at(&mut block, at)).map_err(doing("read the base"))?;
    // As much as fits into the time, but no more than 1 GiB.
    let mut end = 0;
    let block_len = 4096;
    let ordered = || {
        end += block_len;
        (end <= 1 << 30).then_some(end - block_len)
    };
    let appended = rate(window, ordered, |at| file.write_all_at(&block, at)).map_err(doing("write a file"))?;
    let written = end.min(1 << 30);
    let rewritten = rate(window, random(written), |at| file.write_all_at(&block, at)).map_err(doing("write a file"))?;
    Ok(vec![
        ("pread 4 KiB of the base, random", reads),
        ("pwrite 4 KiB, appended in order", appended),
        ("pwrite 4 KiB again, random", rewritten),
        ("eventfd there and back", 1e6 / wake_micros(window)?),
        ("null device, polling, depth 1", null(1, Mode::Polling, window)?),
        ("null device, polling, depth 32", null(32, Mode::Polling, window)?),
    ])
}

fn random(span: u64) -> impl FnMut() -> Option<u64> {
    let mut stream = Stream::new(Pattern::Random { writes: 0 }, 4096, 0..span, u64::MAX, 5);
    move || stream.next().map(|op| op.offset)
}

fn rate(
    window: Duration,
    mut next: impl FnMut() -> Option<u64>,
    mut act: impl FnMut(u64) -> std::io::Result<()>,
) -> std::io::Result<f64> {
    let begun = Instant::now();
    let mut done = 0_u32;
    while !done.is_multiple_of(64) || begun.elapsed() < window {
        let Some(at) = next() else { break };
        act(at)?;
        done += 1;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

/// How long it takes to wake another thread by an eventfd and be woken by it: microseconds. Some tens where processors
/// fall asleep in between, a few where something keeps them awake.
pub(crate) fn wake_micros(window: Duration) -> Result<f64, Failure> {
    let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(Failure::while_doing("make an eventfd"));
    let (there, back) = (eventfd()?, eventfd()?);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(
            || {
                while there.read().is_ok() && !over.load(Ordering::Relaxed) && back.write(1).is_ok() {}
            },
        );
        let begun = Instant::now();
        let mut rounds = 0_u32;
        while begun.elapsed() < window {
            let trip = there.write(1).and_then(|_| back.read());
            trip.map_err(Failure::while_doing("use an eventfd"))?;
            rounds += 1;
        }
        let micros = begun.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
        over.store(true, Ordering::Relaxed);
        there.write(1).map_err(Failure::while_doing("use an eventfd"))?;
        Ok(micros)
    })
}

/// The driver on a device that answers at once.
fn null(depth: u16, mode: Mode, window: Duration) -> Result<f64, Failure> {
    let eventfd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(Failure::while_doing("make an eventfd"));
    let memory = Arc::new(GuestMemory::sealed(Ring::memory_for(LONGEST)));
    let mut ring = Ring::new(memory.clone(), eventfd()?, eventfd()?);
    ring.set_len(4096);
    let over = AtomicBool::new(false);
    let mut stream = Stream::new(Pattern::Random { writes: 0 }, 4096, 0..1 << 32, u64::MAX, 5);
    thread::scope(|scope| {
        scope.spawn(|| null_device(&memory, &over));
        let begun = Instant::now();
        let done = ring.run(depth, mode, window, || stream.next());
        let elapsed = begun.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        Ok(done? as f64 / elapsed)
    })
}
