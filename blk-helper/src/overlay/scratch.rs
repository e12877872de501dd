//! What a worker has of its own for the overlay's work: room for a few clusters, and the cipher.
//!
//! With a cipher, whatever passes between guest and overlay passes through here: the file's bytes are here, the guest's in its
//! buffers, and the cipher is the copy between them. So guest memory never holds ciphertext.
//!
//! The unit of encryption is the cluster, its tweak the number of its slot. So neither changes while the cluster is Dirty,
//! and any whole blocks of it (a sector has 32) can be read and written without the others: in XTS the ciphertext of a block
//! depends on the key, the tweak, its place and its own bytes.

use super::CLUSTER;
use super::map::Slot;
use crate::cipher::Cipher;
use crate::cold::Cold;
use crate::transfer::Buffers;
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
    /// How long the request in hand may wait for storage, and for what it did not.
    pub(crate) cold: Cold,
}

impl Scratch {
    /// Room, with the cipher if the overlay has one.
    pub(crate) fn new(cipher: Option<Cipher>) -> Self {
        Self {
            bytes: Box::new([0; SCRATCH_BYTES]),
            cipher,
            cold: Cold::default(),
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
        let Some(cipher) = &mut self.cipher else {
            return Ok(());
        };
        let clusters = self.bytes.get_mut(..end).unwrap_or_default().chunks_mut(CLUSTER);
        for (slot, cluster) in (u64::from(first.0)..).zip(clusters) {
            cipher.encrypt(slot, cluster)?;
        }
        Ok(())
    }

    /// Undoes [`Self::encrypt`] to what was read from there.
    pub(super) fn decrypt(&mut self, first: Slot, end: usize) -> io::Result<()> {
        let Some(cipher) = &mut self.cipher else {
            return Ok(());
        };
        let clusters = self.bytes.get_mut(..end).unwrap_or_default().chunks_mut(CLUSTER);
        for (slot, cluster) in (u64::from(first.0)..).zip(clusters) {
            cipher.decrypt(slot, cluster)?;
        }
        Ok(())
    }

    /// Puts into `part` what belongs into the file so that `first` and the slots behind it hold the guest's bytes.
    pub(super) fn encrypt_from(&mut self, first: Slot, part: Range<usize>, from: Buffers<'_>) -> io::Result<()> {
        self.each_cluster(first, part, from, |cipher, slot, cluster, within, guest| {
            if let (Some(whole), CLUSTER) = (guest.contiguous(), within.len()) {
                return cipher.encrypt_from(slot, &whole, cluster);
            }
            let end = within.end;
            guest.copy_to(cluster.get_mut(within).unwrap_or_default());
            cipher.encrypt(slot, cluster.get_mut(..end).unwrap_or_default())
        })
    }

    /// Gives the guest what `part`, read from `first` and the slots behind it, means.
    pub(super) fn decrypt_into(&mut self, first: Slot, part: Range<usize>, into: Buffers<'_>) -> io::Result<()> {
        self.each_cluster(first, part, into, |cipher, slot, cluster, within, guest| {
            if let (Some(whole), CLUSTER) = (guest.contiguous(), within.len()) {
                return cipher.decrypt_into(slot, cluster, &whole);
            }
            let plain = cluster.get_mut(..within.end).unwrap_or_default();
            let decrypted = cipher.decrypt(slot, plain);
            if decrypted.is_ok() {
                guest.copy_from(plain.get(within).unwrap_or_default());
            }
            // This memory can be swapped out: what the guest has need not stay here.
            plain.fill(0);
            decrypted
        })
    }

    /// Calls `convert` with each cluster that `part` touches, what of it is touched, and the guest's buffers for that.
    fn each_cluster(
        &mut self,
        first: Slot,
        part: Range<usize>,
        guest: Buffers<'_>,
        mut convert: impl FnMut(&mut Cipher, u64, &mut [u8], Range<usize>, Buffers<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(cipher) = &mut self.cipher else {
            return Ok(());
        };
        let mut rest = guest;
        let mut start = part.start;
        let mut left = part.end;
        for (slot, cluster) in (u64::from(first.0)..).zip(self.bytes.chunks_mut(CLUSTER)) {
            let end = left.min(CLUSTER);
            if start >= end {
                break;
            }
            let now;
            (now, rest) = rest.split_at(bytes(end.saturating_sub(start)));
            convert(cipher, slot, cluster, start..end, now)?;
            start = 0;
            left = left.saturating_sub(CLUSTER);
        }
        Ok(())
    }
}

/// A length in memory, for windows.
fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
