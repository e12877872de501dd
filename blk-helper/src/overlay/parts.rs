//! The parts of one request, of which some may not be in memory.

use super::OverlayError;

/// Whether all parts were found in memory. The others are tried all the same, so that one attempt notes all that storage has to
/// deliver: attempts without waiting are few.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    is_cold: bool,
}

impl Parts {
    /// Goes on after a part, unless it failed.
    ///
    /// # Errors
    /// What it failed with.
    pub(crate) fn go_on(&mut self, part: Result<(), OverlayError>) -> Result<(), OverlayError> {
        match part {
            Err(OverlayError::Cold) => {
                self.is_cold = true;
                Ok(())
            }
            other => other,
        }
    }

    /// The end of the parts.
    ///
    /// # Errors
    /// [`OverlayError::Cold`].
    pub(crate) fn all_found(self) -> Result<(), OverlayError> {
        if self.is_cold { Err(OverlayError::Cold) } else { Ok(()) }
    }
}
