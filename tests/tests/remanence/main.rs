//! What is left of a disk that burnt, and of its key: on the medium, in swap, in core files, in memory.
//!
//! Who looks is root, with the whole medium or the whole memory. Each search is seen to find what was not protected.

mod keys;
mod media;
mod memory;
mod swap;
mod swapped_key;

use tests::client::{Client, Setup};
use tests::helper::Helper;

/// How often a mark is written.
const COPIES: usize = 2000;

/// What is looked for: text, so that it is no part of anything by chance.
type Mark = [u8; 32];

/// A guest writes `mark` two thousand times, to whole clusters and to sectors of others, and is still there.
fn marked(helper: &Helper, mark: &Mark) -> Client {
    let mut client = Client::connect(helper.socket(), Setup::default());
    for index in 0..COPIES {
        let len = if index % 2 == 0 { 4096 } else { 512 };
        client.write(place_of(index), &padded(mark, len));
    }
    client
}

/// Where copy `index` of a mark lies.
fn place_of(index: usize) -> u64 {
    u64::try_from(index * 8192).expect("a disk of ours is small")
}

/// `mark` once, at the beginning of `len` bytes.
fn padded(mark: &Mark, len: usize) -> Vec<u8> {
    let mut bytes = mark.to_vec();
    bytes.resize(len, 0xa5);
    bytes
}
