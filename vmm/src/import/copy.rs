//! Writes a disk into the output, but for its zeros: the file is empty, so that they are there already, and take no space.

use super::chain::Chain;
use super::error::{ImportError, Which};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Bytes that are read and written at a time.
const CHUNK: u64 = 1 << 20;

/// Zeros are looked for in blocks of the file system's usual size.
const BLOCK: usize = 4096;

/// How often it is said how far it is.
const PAUSE: Duration = Duration::from_millis(100);

/// Converts the disk, and says now and then how many bytes are done: at the end all of them.
///
/// # Errors
/// An image is found to be damaged, or a file cannot be read or written. Part of the output is written then.
pub(super) fn copy(chain: &mut Chain, output: &File, mut say: impl FnMut(u64)) -> Result<(), ImportError> {
    let bytes = chain.disk_bytes();
    let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(BLOCK)];
    let mut said = Instant::now();
    let mut at = 0_u64;
    while at < bytes {
        let found = chain.find(at, bytes - at)?;
        let step = if found.is_zero() {
            found.bytes
        } else {
            found.bytes.min(CHUNK)
        };
        if !found.is_zero() {
            let piece = buffer.get_mut(..usize::try_from(step).unwrap_or(usize::MAX));
            let piece = piece.expect("a step has a chunk at most");
            chain.read(found, at, piece)?;
            write(output, at, piece)?;
        }
        at = at.saturating_add(step);
        if said.elapsed() >= PAUSE {
            said = Instant::now();
            say(at);
        }
    }
    say(bytes);
    Ok(())
}

/// Writes the blocks of `piece` that are not all zeros, neighbours together.
fn write(output: &File, at: u64, piece: &[u8]) -> Result<(), ImportError> {
    let put = |from: usize, bytes: &[u8]| {
        let at = at.saturating_add(u64::try_from(from).unwrap_or(u64::MAX));
        output.write_all_at(bytes, at).map_err(Which::Output.failed("write"))
    };
    let mut begun = None;
    let mut from = 0;
    // The first block may be the rest of one: what follows is where the file system has its blocks.
    let before = usize::try_from(at % 4096).unwrap_or(0);
    let mut end = BLOCK.saturating_sub(before);
    while from < piece.len() {
        let block = piece.get(from..end.min(piece.len())).unwrap_or_default();
        let zero = block == [0; BLOCK].get(..block.len()).unwrap_or_default();
        match (zero, begun) {
            (false, None) => begun = Some(from),
            (true, Some(begin)) => {
                put(begin, piece.get(begin..from).unwrap_or_default())?;
                begun = None;
            }
            (false, Some(_)) | (true, None) => {}
        }
        from = end;
        end = end.saturating_add(BLOCK);
    }
    match begun {
        Some(begin) => put(begin, piece.get(begin..).unwrap_or_default()),
        None => Ok(()),
    }
}
