//! Bytes between guest buffers and a file at an offset, without a copy in between.
//!
//! [`Buffers`] is a window onto the buffers of one request: it is cut where a cluster or a run ends and handed to
//! [`read_at`] or [`write_at`], which move exactly as many bytes as it is long. Offsets are explicit: a descriptor's own
//! position is never used, since threads share it. Where bytes must be changed on the way (encryption, a part of a cluster),
//! [`Buffers::copy_to`] and [`Buffers::copy_from`] are the copy.
//!
//! Reading may be told not to wait for storage ([`Patience`]): what is not in the page cache is then an error, and on its
//! way there.
//!
//! Knows nothing of virtio, clusters or disks.
#![allow(unsafe_code, reason = "listed: the vectored calls on guest memory live here")]

use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use vm_memory::VolatileSlice;

/// Most buffers handed to the kernel in one call. The kernel takes 1024; but the array is made for each call, and most requests
/// have one buffer. A guess: a call that moves 64 KiB in single pages is worth its price.
const MAX_VECTORS: usize = 16;

/// One guest buffer, or a part of one.
pub(crate) type GuestSlice<'m> = VolatileSlice<'m, ()>;

/// A window of `len` bytes onto guest buffers, beginning `skip` bytes into the first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers<'a> {
    slices: &'a [GuestSlice<'a>],
    skip: usize,
    len: usize,
}

impl<'a> Buffers<'a> {
    /// All bytes of `slices`.
    pub(crate) fn new(slices: &'a [GuestSlice<'a>]) -> Self {
        Self {
            slices,
            skip: 0,
            len: slices.iter().map(GuestSlice::len).sum(),
        }
    }

    /// The number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Cuts the window after `bytes` bytes; a cut beyond the end leaves nothing behind it.
    pub(crate) fn split_at(self, bytes: u64) -> (Self, Self) {
        let cut = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.len);
        let before = Self { len: cut, ..self };

        let mut skip = self.skip.saturating_add(cut);
        let mut slices = self.slices;
        while let Some((first, others)) = slices.split_first() {
            if skip < first.len() {
                break;
            }
            skip = skip.saturating_sub(first.len());
            slices = others;
        }
        let behind = Self {
            slices,
            skip,
            len: self.len.saturating_sub(cut),
        };
        (before, behind)
    }

    /// Copies the guest's bytes into `to`, as far as the shorter of the two goes.
    pub(crate) fn copy_to(self, mut to: &mut [u8]) {
        for part in self.parts() {
            let copied = part.copy_to(to);
            to = to.get_mut(copied..).unwrap_or_default();
        }
    }

    /// Copies `from` into the guest's buffers, as far as the shorter of the two goes.
    pub(crate) fn copy_from(self, mut from: &[u8]) {
        for part in self.parts() {
            let fits = part.len().min(from.len());
            let (now, later) = from.split_at(fits);
            part.copy_from(now);
            from = later;
        }
    }

    /// The window's bytes, if they lie in one buffer.
    pub(crate) fn contiguous(self) -> Option<GuestSlice<'a>> {
        let first = self.slices.first()?;
        first.subslice(self.skip, self.len).ok()
    }

    /// Fills the guest's buffers with zeros.
    pub(crate) fn fill_zero(self) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut rest = self;
        while rest.len > 0 {
            let (now, later) = rest.split_at(4096);
            now.copy_from(&ZEROS);
            rest = later;
        }
    }

    /// The window's bytes, buffer by buffer.
    fn parts(self) -> impl Iterator<Item = GuestSlice<'a>> {
        let mut skip = self.skip;
        let mut left = self.len;
        let cut = move |slice: &GuestSlice<'a>| {
            if left == 0 {
                return None;
            }
            let offset = std::mem::take(&mut skip);
            let take = slice.len().saturating_sub(offset).min(left);
            left = left.saturating_sub(take);
            slice.subslice(offset, take).ok()
        };
        self.slices.iter().map_while(cut).filter(|part| !part.is_empty())
    }

    /// As many of the window's buffers as one call takes.
    fn vectors(self) -> ([libc::iovec; MAX_VECTORS], usize) {
        const EMPTY: libc::iovec = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut vectors = [EMPTY; MAX_VECTORS];
        let mut used = 0;
        for (vector, part) in vectors.iter_mut().zip(self.parts()) {
            vector.iov_base = part.ptr_guard_mut().as_ptr().cast();
            vector.iov_len = part.len();
            used += 1;
        }
        (vectors, used)
    }
}

/// Whether reading may wait for storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as it takes.
    Endless,
    /// Not at all: what is not in memory is [`io::ErrorKind::WouldBlock`]. The kernel begins to fetch it (since Linux 6.0).
    None,
}

impl Patience {
    /// The same, or endless where the file system cannot refuse to wait ([`can_refuse_to_wait`]).
    pub(crate) fn if_possible(self, can_refuse_to_wait: bool) -> Self {
        if can_refuse_to_wait { self } else { Self::Endless }
    }

    fn flags(self) -> libc::c_int {
        match self {
            Self::Endless => 0,
            Self::None => libc::RWF_NOWAIT,
        }
    }

    /// What an error means: who has offered to wait is not to come again, whatever the storage says (FUSE passes on what its daemon
    /// answers), for it might say so for ever.
    fn judge(self, error: io::Error) -> io::Error {
        if self == Self::Endless && error.kind() == io::ErrorKind::WouldBlock {
            io::Error::other(error)
        } else {
            error
        }
    }
}

/// Whether the file system of `file` can read without waiting. What it cannot, it says whatever is read.
pub(crate) fn can_refuse_to_wait(file: &impl AsFd) -> bool {
    !matches!(
        preadv2(file, &mut [IoSliceMut::new(&mut [0])], 0, ReadWriteFlags::NOWAIT),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
    )
}

/// Fills `into` from `file` at `offset`.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::UnexpectedEof`] when the file ends before `into` is full.
pub(crate) fn read_at(file: &impl AsFd, offset: u64, into: Buffers<'_>, patience: Patience) -> io::Result<()> {
    move_all(offset, into, io::ErrorKind::UnexpectedEof, |vectors, count, at| {
        // SAFETY: each vector is a part of a live `VolatileSlice`, whose memory stays mapped while `into` borrows it;
        // the kernel writes there as another device would, and no reference to those bytes exists.
        unsafe { libc::preadv2(file.as_fd().as_raw_fd(), vectors, count, at, patience.flags()) }
    })
    .map_err(|error| patience.judge(error))
}

/// Fills this process's own memory from `file` at `offset`.
///
/// # Errors
/// As [`read_at`].
pub(crate) fn read_bytes_at(file: &impl AsFd, offset: u64, into: &mut [u8], patience: Patience) -> io::Result<()> {
    let flags = match patience {
        Patience::Endless => ReadWriteFlags::empty(),
        Patience::None => ReadWriteFlags::NOWAIT,
    };
    let mut rest = into;
    let mut at = offset;
    while !rest.is_empty() {
        match preadv2(file, &mut [IoSliceMut::new(rest)], at, flags) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => {
                rest = rest.get_mut(moved..).unwrap_or_default();
                at = at.saturating_add(u64::try_from(moved).unwrap_or(u64::MAX));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(patience.judge(errno.into())),
        }
    }
    Ok(())
}

/// Writes all of `from` to `file` at `offset`.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::WriteZero`] when it takes no more bytes without saying why.
pub(crate) fn write_at(file: &impl AsFd, offset: u64, from: Buffers<'_>) -> io::Result<()> {
    move_all(offset, from, io::ErrorKind::WriteZero, |vectors, count, at| {
        // SAFETY: each vector is a part of a live `VolatileSlice`, whose memory stays mapped while `from` borrows it;
        // the kernel only reads it, and whatever the guest writes there meanwhile is the guest's own data.
        unsafe { libc::pwritev(file.as_fd().as_raw_fd(), vectors, count, at) }
    })
    .map_err(|error| Patience::Endless.judge(error))
}

/// Writes all of this process's own memory `from` to `file` at `offset`.
///
/// # Errors
/// As [`write_at`].
pub(crate) fn write_bytes_at(file: &File, offset: u64, from: &[u8]) -> io::Result<()> {
    let written = file.write_all_at(from, offset);
    written.map_err(|error| Patience::Endless.judge(error))
}

/// Calls `vectored` until the whole window was moved; a call that moves nothing is the error `stuck`.
fn move_all(
    offset: u64,
    window: Buffers<'_>,
    stuck: io::ErrorKind,
    vectored: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
) -> io::Result<()> {
    let mut rest = window;
    let mut at = offset;
    while rest.len > 0 {
        let (vectors, count) = rest.vectors();
        let count = libc::c_int::try_from(count).map_err(|_| io::ErrorKind::InvalidInput)?;
        let file_offset = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        match u64::try_from(vectored(vectors.as_ptr(), count, file_offset)) {
            Ok(0) => return Err(stuck.into()),
            Ok(moved) => {
                (_, rest) = rest.split_at(moved);
                at = at.saturating_add(moved);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    fn memfd(content: &[u8]) -> File {
        let file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all_at(content, 0).unwrap();
        file
    }

    /// Pieces of `memory` of the given lengths, one behind the other.
    fn slices<'m>(memory: &'m mut [u8], lengths: &[usize]) -> Vec<GuestSlice<'m>> {
        let whole = GuestSlice::from(memory);
        let mut at = 0;
        lengths
            .iter()
            .map(|length| {
                let slice = whole.subslice(at, *length).unwrap();
                at += length;
                slice
            })
            .collect()
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    #[test]
    fn a_read_fills_scattered_buffers_in_order() {
        let file = memfd(&pattern(1000));
        let mut memory = vec![0; 700];
        let parts = slices(&mut memory, &[1, 0, 300, 399]);

        read_at(&file, 100, Buffers::new(&parts), Patience::Endless).unwrap();

        assert_eq!(memory, pattern(1000)[100..800]);
    }

    #[test]
    fn a_write_takes_more_buffers_than_one_call_holds() {
        let file = memfd(&[]);
        let mut memory = pattern(300);
        let parts = slices(&mut memory, &[1; 300]);

        write_at(&file, 5, Buffers::new(&parts)).unwrap();

        let mut found = vec![0; 305];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found[5..], pattern(300));
    }

    #[test]
    fn a_read_past_the_end_of_the_file_is_an_error() {
        let file = memfd(&pattern(10));
        let mut memory = vec![0; 11];
        let parts = slices(&mut memory, &[11]);

        let error = read_at(&file, 0, Buffers::new(&parts), Patience::Endless).unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_window_is_cut_anywhere() {
        let mut memory = pattern(100);
        let parts = slices(&mut memory, &[10, 20, 30, 40]);
        let whole = Buffers::new(&parts);

        for cut in 0..=100 {
            let (before, behind) = whole.split_at(cut);
            let mut found = vec![0; 100];
            let (first, second) = found.split_at_mut(before.len());
            before.copy_to(first);
            behind.copy_to(second);
            assert_eq!(found, pattern(100), "cut at {cut}");
        }
        assert_eq!(whole.split_at(101).1.len(), 0);
    }

    #[test]
    fn zeros_reach_exactly_the_window() {
        let mut memory = vec![7; 10_000];
        let parts = slices(&mut memory, &[4000, 6000]);

        let (_, window) = Buffers::new(&parts).split_at(100);
        window.split_at(9000).0.fill_zero();

        assert!(memory[..100].iter().all(|byte| *byte == 7));
        assert!(memory[100..9100].iter().all(|byte| *byte == 0));
        assert!(memory[9100..].iter().all(|byte| *byte == 7));
    }
}
