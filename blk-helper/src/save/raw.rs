//! A complete raw image: the whole disk, byte for byte, with holes where it is zeros.
//!
//! Where the file system can, the output shares the base's blocks first, and only what the guest changed is written. Else what
//! the base holds is copied, except holes and zeros.

use super::output::Output;
use super::{SaveError, Sink};
use crate::base::Base;
use crate::overlay::{CLUSTER, Frozen, FrozenRun};
use protocol::units::ByteRange;
use std::io;

/// An image that is being written.
pub(super) struct RawImage<'a> {
    output: &'a Output,
    base: &'a Base,
    bytes: u64,
    /// The base's blocks are there.
    shared: bool,
    /// The stretch with data that the base's file system named last. From where it was asked up to there is a hole.
    data: (u64, u64),
}

impl<'a> RawImage<'a> {
    /// An image of `bytes` bytes.
    pub(super) fn begin(output: &'a Output, base: &'a Base, bytes: u64) -> Result<Self, SaveError> {
        let shared = output.share(base).is_ok();
        output.set_length(bytes).map_err(SaveError::Write)?;
        Ok(Self {
            output,
            base,
            bytes,
            shared,
            data: (0, 0),
        })
    }

    /// Writes what is not zeros; the rest of the file is a hole.
    fn write_sparsely(&self, start: u64, content: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while let Some(rest) = content.get(at..).filter(|rest| !rest.is_empty()) {
            let is_zero = |cluster: &&[u8]| cluster.iter().all(|byte| *byte == 0);
            let zeros: usize = rest.chunks(CLUSTER).take_while(is_zero).map(<[u8]>::len).sum();
            let rest = rest.get(zeros..).unwrap_or_default();
            let bytes: usize = rest.chunks(CLUSTER).take_while(|c| !is_zero(c)).map(<[u8]>::len).sum();
            at = at.saturating_add(zeros);
            let offset = start.saturating_add(u64::try_from(at).unwrap_or(u64::MAX));
            self.output.write(offset, rest.get(..bytes).unwrap_or_default())?;
            at = at.saturating_add(bytes);
        }
        Ok(())
    }

    /// Whether the base has nothing in `part`, as far as its file system says.
    fn is_hole(&mut self, part: ByteRange) -> bool {
        if part.start() >= self.data.1 {
            self.data = self.base.data_after(part.start());
        }
        part.end() <= self.data.0
    }
}

impl Sink for RawImage<'_> {
    fn wants(&mut self, run: &FrozenRun) -> bool {
        match run.holds {
            Frozen::Dirty(_) => true,
            Frozen::Zero => false,
            Frozen::Clean => !self.shared && !self.is_hole(run.part),
        }
    }

    fn take(&mut self, run: &FrozenRun, content: &mut [u8]) -> Result<(), SaveError> {
        let start = run.part.start();
        let written = if self.shared {
            self.output.write(start, content)
        } else {
            self.write_sparsely(start, content)
        };
        written.map_err(SaveError::Write)
    }

    fn pass(&mut self, run: &FrozenRun) -> Result<(), SaveError> {
        if self.shared && run.holds == Frozen::Zero {
            return self
                .output
                .punch(run.part.start(), run.part.len())
                .map_err(SaveError::Write);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<u64, SaveError> {
        Ok(self.bytes)
    }
}
