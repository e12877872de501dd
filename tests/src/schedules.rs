//! Finds AES-256 keys in memory by what they are expanded to.
//!
//! A key is 32 bytes like any others, but the 240 bytes of its schedule obey the key expansion (FIPS 197, 5.2), which nothing
//! does by chance. A schedule for decryption is the same one back to front, its inner round keys through InvMixColumns
//! (FIPS 197, 5.3.5). Both are found wherever they begin at a multiple of four bytes.
//!
//! Knows nothing of processes.

use std::sync::LazyLock;

/// Bytes of a key.
pub const KEY: usize = 32;

/// Bytes of what it is expanded to.
pub const SCHEDULE: usize = 240;

/// Words of a schedule, as memory has them.
const WORDS: usize = SCHEDULE / 4;

/// Words of a round key.
const ROUND: usize = 4;

/// A schedule that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it begins.
    pub at: usize,
    /// The key that is expanded there.
    pub key: [u8; KEY],
}

/// What `key` is expanded to.
#[must_use]
pub fn expand(key: &[u8; KEY]) -> [u8; SCHEDULE] {
    let (words, _) = key.as_chunks::<4>();
    let mut schedule = words.to_vec();
    while schedule.len() < WORDS {
        schedule.push(next(&schedule));
    }
    let mut bytes = [0; SCHEDULE];
    bytes.copy_from_slice(schedule.as_flattened());
    bytes
}

/// The schedules in `memory`, for both directions.
#[must_use]
pub fn find(memory: &[u8]) -> Vec<Found> {
    let (words, _) = memory.as_chunks::<4>();
    let mut found = Vec::new();
    for (index, window) in words.windows(WORDS).enumerate() {
        let encrypts = may_encrypt(window).then(|| window.to_vec());
        let decrypts = may_decrypt(window).then(|| turned(window));
        for schedule in encrypts.into_iter().chain(decrypts) {
            if is_schedule(&schedule) {
                let mut key = [0; KEY];
                key.copy_from_slice(&schedule.as_flattened()[..KEY]);
                found.push(Found { at: index * 4, key });
            }
        }
    }
    found
}

type Word = [u8; 4];

fn xor(left: Word, right: Word) -> Word {
    (u32::from_ne_bytes(left) ^ u32::from_ne_bytes(right)).to_ne_bytes()
}

/// The word that follows the last one of `schedule`, which has eight at least.
fn next(schedule: &[Word]) -> Word {
    let count = schedule.len();
    let last = schedule[count - 1];
    let changed = match count % 8 {
        0 => {
            let [first, second, third, fourth] = last;
            let constant = [1 << (count / 8 - 1), 0, 0, 0];
            xor([second, third, fourth, first].map(substituted), constant)
        }
        4 => last.map(substituted),
        _ => last,
    };
    xor(schedule[count - 8], changed)
}

/// Whether all words follow from those before.
fn is_schedule(words: &[Word]) -> bool {
    (8..WORDS).all(|at| words[at] == next(&words[..at]))
}

/// A quick look: three words that follow by an exclusive or from others.
fn may_encrypt(words: &[Word]) -> bool {
    (9..12).all(|at| words[at] == xor(words[at - 8], words[at - 1]))
}

/// The same for the other direction: InvMixColumns is linear, so exclusive ors survive it.
fn may_decrypt(words: &[Word]) -> bool {
    let word = |at: usize| words[(14 - at / ROUND) * ROUND + at % ROUND];
    (13..16).all(|at| word(at) == xor(word(at - 8), word(at - 1)))
}

/// The schedule for encryption that `words` was made of, if it is one for decryption.
fn turned(words: &[Word]) -> Vec<Word> {
    let rounds = words.chunks(ROUND).rev().enumerate();
    rounds
        .flat_map(|(number, round)| {
            let inner = (1..14).contains(&number);
            round.iter().map(move |word| if inner { mixed(*word) } else { *word })
        })
        .collect()
}

/// A byte times x in AES's field.
fn doubled(byte: u8) -> u8 {
    (byte << 1) ^ if byte & 0x80 == 0 { 0 } else { 0x1b }
}

/// MixColumns of one column.
fn mixed([a, b, c, d]: Word) -> Word {
    let all = a ^ b ^ c ^ d;
    let mix = |this: u8, other: u8| this ^ all ^ doubled(this ^ other);
    [mix(a, b), mix(b, c), mix(c, d), mix(d, a)]
}

fn product(left: u8, right: u8) -> u8 {
    let mut sum = 0;
    let mut power = left;
    for bit in 0..8 {
        if right >> bit & 1 == 1 {
            sum ^= power;
        }
        power = doubled(power);
    }
    sum
}

/// SubBytes of one byte.
fn substituted(byte: u8) -> u8 {
    static TABLE: LazyLock<[u8; 256]> = LazyLock::new(|| {
        let mut table = [0; 256];
        for byte in 0..=u8::MAX {
            let inverse = (1..=u8::MAX).find(|other| product(byte, *other) == 1).unwrap_or(0);
            let turns = (1..5).map(|turn| inverse.rotate_left(turn));
            table[usize::from(byte)] = turns.fold(inverse ^ 0x63, |sum, turned| sum ^ turned);
        }
        table
    });
    TABLE[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// FIPS 197, appendix A.3.
    #[test]
    fn the_standards_key_is_expanded_as_there() {
        let key = [
            0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81, 0x1f, 0x35,
            0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
        ];

        let schedule = expand(&key);

        assert_eq!(schedule[32..36], [0x9b, 0xa3, 0x54, 0x11]);
        assert_eq!(schedule[48..52], [0xa8, 0xb0, 0x9c, 0x1a]);
        assert_eq!(schedule[236..], [0x70, 0x6c, 0x63, 0x1e]);
    }

    #[test]
    fn schedules_are_found_in_noise_and_nothing_else_is() {
        let mut rng = Rng::new(1);
        let mut memory = [rng.bytes(64 << 10), vec![0; 4096], vec![0xff; 4096]].concat();
        assert_eq!(find(&memory), []);
        let key: [u8; KEY] = rng.bytes(KEY).try_into().unwrap();
        let schedule = expand(&key);

        memory[1004..1004 + SCHEDULE].copy_from_slice(&schedule);
        // Made for decryption with the functions that undo it: four times MixColumns is nothing, so three times is its inverse.
        let (words, _) = schedule.as_chunks::<4>();
        let backwards = words.chunks(ROUND).rev().enumerate();
        let inverse: Vec<Word> = backwards
            .flat_map(|(number, round)| {
                let inner = (1..14).contains(&number);
                round
                    .iter()
                    .map(move |word| if inner { mixed(mixed(mixed(*word))) } else { *word })
            })
            .collect();
        memory[5000..5000 + SCHEDULE].copy_from_slice(inverse.as_flattened());

        let expected = [1004, 5000].map(|at| Found { at, key });
        assert_eq!(find(&memory), expected);
        memory[5100] ^= 1;
        assert_eq!(find(&memory), expected[..1]);
    }
}
