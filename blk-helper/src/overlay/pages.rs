//! An array of words that starts as zeros and costs memory only where it was written, with that memory counted: in pages of
//! 1024 words, bounded by a limit.
//!
//! [`CountedWords::admit`] comes before the work whose result [`CountedWords::set`] records, so that a limit is noticed before
//! anything is done.
//!
//! Knows nothing of clusters.

use crate::mapping::ZeroedWords;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words that share a page of memory.
const WORDS_A_PAGE: u64 = 1024;

/// Bytes of such a page.
const PAGE_BYTES: u64 = 4096;

/// No more memory may be used.
#[derive(Debug)]
pub(super) struct Full;

/// The array.
#[derive(Debug)]
pub(super) struct CountedWords {
    words: ZeroedWords,
    /// One bit for each page of `words` that was admitted.
    admitted: ZeroedWords,
    pages: AtomicU64,
    max_pages: u64,
}

impl CountedWords {
    /// `count` words that may take `max_bytes` of memory.
    ///
    /// # Errors
    /// When the address space cannot be reserved.
    pub(super) fn new(count: u64, max_bytes: u64) -> io::Result<Self> {
        let pages = count.div_ceil(WORDS_A_PAGE);
        Ok(Self {
            words: ZeroedWords::new(count)?,
            admitted: ZeroedWords::new(pages.div_ceil(u64::from(u32::BITS)))?,
            pages: AtomicU64::new(0),
            max_pages: max_bytes / PAGE_BYTES,
        })
    }

    /// The word at `index`; 0 beyond the end.
    pub(super) fn get(&self, index: u64) -> u32 {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.words.get(index))
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// `range`, or nothing of it if no page that it touches was admitted: then all its words are 0.
    pub(super) fn admitted(&self, range: Range<u64>) -> Range<u64> {
        let last = range.end.saturating_sub(1).max(range.start);
        let any = (range.start / WORDS_A_PAGE..=last / WORDS_A_PAGE).any(|page| self.is_admitted(page));
        if any { range } else { range.start..range.start }
    }

    fn is_admitted(&self, page: u64) -> bool {
        let bit = 1u32 << (page % u64::from(u32::BITS));
        usize::try_from(page / u64::from(u32::BITS))
            .ok()
            .and_then(|index| self.admitted.get(index))
            .is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Replaces a word of an admitted page.
    pub(super) fn set(&self, index: u64, value: u32) {
        let word = usize::try_from(index).ok().and_then(|index| self.words.get(index));
        debug_assert!(word.is_some(), "a checked range lies within the array");
        if let Some(word) = word {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Makes sure that the words in `range` may be written.
    ///
    /// # Errors
    /// [`Full`].
    pub(super) fn admit(&self, range: Range<u64>) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        let last = range.end.saturating_sub(1) / WORDS_A_PAGE;
        (range.start / WORDS_A_PAGE..=last).try_for_each(|page| self.admit_page(page))
    }

    fn admit_page(&self, page: u64) -> Result<(), Full> {
        let bit = 1u32 << (page % u64::from(u32::BITS));
        let word = usize::try_from(page / u64::from(u32::BITS))
            .ok()
            .and_then(|index| self.admitted.get(index))
            .ok_or(Full)?;
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        // Count first: two regions may admit one page at a time, and the limit must hold even then.
        let counted = self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pages| {
            (pages < self.max_pages).then_some(pages.saturating_add(1))
        });
        if counted.is_err() {
            return Err(Full);
        }
        if word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            // Somebody else admitted it in between: it counts once.
            self.pages.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Bytes of memory that may have been touched so far.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.load(Ordering::Relaxed).saturating_mul(PAGE_BYTES)
    }

    /// What [`Self::bytes`] cannot exceed.
    pub(super) fn max_bytes(&self) -> u64 {
        self.max_pages.saturating_mul(PAGE_BYTES)
    }

    /// Makes every word 0 again and gives the memory back. Nobody else may use the array meanwhile.
    pub(super) fn clear(&self) {
        self.words.clear();
        self.admitted.clear();
        self.pages.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_admitted_up_to_the_limit_and_count_once() {
        let words = CountedWords::new(1 << 20, 3 * 4096).unwrap();

        words.admit(0..1).unwrap();
        words.admit(1..1024).unwrap();
        words.admit(1023..3072).unwrap();

        assert_eq!(words.bytes(), 3 * 4096);
        words.admit(3072..3073).unwrap_err();
        words.admit(2048..3072).unwrap();
    }

    #[test]
    fn what_was_cleared_is_as_new() {
        let words = CountedWords::new(1 << 20, 4096).unwrap();
        words.admit(5000..5001).unwrap();
        words.set(5000, 7);

        words.clear();

        assert_eq!((words.get(5000), words.bytes()), (0, 0));
        words.admit(0..1).unwrap();
    }
}
