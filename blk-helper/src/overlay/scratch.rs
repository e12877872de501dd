//! What a worker has of its own for the overlay's work: room for a few clusters, and the cipher.
//!
//! With a cipher, whatever passes between guest and overlay passes through here: guest memory never holds ciphertext, and
//! what the guest changes meanwhile it changes before the copy or in vain.
//!
//! The unit of encryption is the cluster, its tweak the number of its slot. So neither changes while the cluster is Dirty,
//! and any whole blocks of it (a sector has 32) can be read and written without the others: in XTS the ciphertext of a block
//! depends on the key, the tweak, its place and its own bytes.

use super::CLUSTER;
use super::map::Slot;
use crate::cipher::Cipher;
use std::io;
use std::ops::Range;

/// Slots whose content fits. 64 KiB stay in a second-level cache, and what a request beyond that pays for a further call is little
/// beside what it moves: a guess.
pub(super) const SCRATCH_SLOTS: u32 = 16;

/// Bytes that fit.
pub(super) const SCRATCH_BYTES: usize = SCRATCH_SLOTS as usize * CLUSTER;

/// A worker's own.
#[derive(Debug)]
pub(crate) struct Scratch {
    bytes: Box<[u8; SCRATCH_BYTES]>,
    /// None for an overlay in the clear. All ciphers of an overlay have one key.
    cipher: Option<Cipher>,
}

impl Scratch {
    /// Room, with the cipher if the overlay has one.
    pub(crate) fn new(cipher: Option<Cipher>) -> Self {
        Self {
            bytes: Box::new([0; SCRATCH_BYTES]),
            cipher,
        }
    }

    /// Whether there is a cipher.
    pub(super) fn encrypts(&self) -> bool {
        self.cipher.is_some()
    }

    /// The bytes in `part`; none that do not fit.
    pub(super) fn part(&mut self, part: Range<usize>) -> &mut [u8] {
        self.bytes.get_mut(part).unwrap_or_default()
    }

    /// Turns what is before `end`, the content of `first` and the slots behind it, into what belongs into the file.
    pub(super) fn encrypt(&mut self, first: Slot, end: usize) -> io::Result<()> {
        self.each_cluster(first, end, Cipher::encrypt)
    }

    /// Turns what is before `end`, read from `first` and the slots behind it, into what a guest may see.
    pub(super) fn decrypt(&mut self, first: Slot, end: usize) -> io::Result<()> {
        self.each_cluster(first, end, Cipher::decrypt)
    }

    fn each_cluster(
        &mut self,
        first: Slot,
        end: usize,
        convert: impl Fn(&mut Cipher, u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(cipher) = &mut self.cipher else {
            return Ok(());
        };
        let clusters = self.bytes.get_mut(..end).unwrap_or_default().chunks_mut(CLUSTER);
        for (slot, cluster) in (u64::from(first.0)..).zip(clusters) {
            convert(cipher, slot, cluster)?;
        }
        Ok(())
    }
}
