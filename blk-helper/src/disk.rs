//! The disk as a guest sees it: one exhaustive match from request to operation, and from error to status.
//!
//! No other place decides a status, and nothing below this file knows virtio.

use crate::base::Base;
use crate::cold::{Part, Place};
use crate::overlay::{Overlay, OverlayError, Parts, SLICE_BYTES, Work, read_base};
use crate::request::{MAX_ZERO_SEGMENTS, Request, ZeroSegments};
use crate::shortage::Shortage;
use crate::stats::Waited;
use crate::throttle::Throttle;
use crate::transfer::{Buffers, Patience};
use log::{Level, debug, log};
use policy::logging::{Seldom, chain};
use protocol::blk::{ID_BYTES, OfferedFeatures, RequestType, Status};
use protocol::config_space::ZeroLimits;
use protocol::control::AtLimit;
use protocol::units::{ByteRange, Capacity, Sector, SectorCount};
use std::time::Duration;
use thiserror::Error;

/// Limits of discard and write-zeroes. 256 MiB a segment keeps each to some 65,536 map entries and punches, a fraction of a
/// second at the worst, with a chance to stop after every slice; drivers split what is larger.
pub(crate) const ZERO_LIMITS: ZeroLimits = ZeroLimits {
    max_sectors: 1 << 19,
    max_segments: MAX_ZERO_SEGMENTS,
};

/// What the sectors are stored on.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub(crate) enum Medium {
    /// The base, as it is: no overlay exists.
    ReadOnly(Base),
    /// The base, and an overlay for what changes.
    Burning(Overlay),
}

impl Medium {
    /// The image below.
    pub(crate) fn base(&self) -> &Base {
        match self {
            Self::ReadOnly(base) => base,
            Self::Burning(overlay) => overlay.base(),
        }
    }
}

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    medium: Medium,
    serial: [u8; ID_BYTES],
    throttle: Throttle,
    shortage: Shortage,
    /// What an operator is told, now and then: a guest can provoke it as often as it likes.
    told_of_limit: Seldom,
    told_of_failure: Seldom,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// The status byte.
    pub(crate) status: Status,
    /// Bytes of data written to guest memory, without the status byte.
    pub(crate) written: u32,
}

/// The request was put down, to be executed again from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutDown {
    /// The ring must stop.
    Stopped,
    /// Storage has to deliver something first, and the worker does not wait for it.
    Cold,
    /// The same, for a request that may find no space afterwards: to be held it must be in its ring.
    ColdInPlace,
    /// The operator's limits do not let it through yet.
    Later(Later),
}

/// How long to leave a queue alone, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Later {
    pub(crate) why: Waited,
    pub(crate) time: Duration,
}

/// When a request that found no space is tried again. Fast enough for people, too slow to cost anything; a guess.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Why a request that could be read was not executed.
#[derive(Debug, Error)]
enum RequestError {
    #[error("sectors {} + {} are not on the disk", start.0, count.0)]
    Range { start: Sector, count: SectorCount },
    #[error("a segment of {} sectors is longer than the device allows", .0.0)]
    SegmentLength(SectorCount),
    #[error("unknown flags")]
    Flags,
    #[error("the disk is read-only")]
    ReadOnly,
    #[error("the device does not do this")]
    Unsupported,
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

impl RequestError {
    fn status(&self) -> Status {
        match self {
            Self::Flags | Self::Unsupported => Status::Unsupported,
            Self::Range { .. } | Self::SegmentLength(_) | Self::ReadOnly | Self::Overlay(_) => Status::IoError,
        }
    }
}

impl Disk {
    /// A disk on `medium` that calls itself `serial`.
    pub(crate) fn new(medium: Medium, serial: [u8; ID_BYTES], throttle: Throttle, shortage: Shortage) -> Self {
        Self {
            medium,
            serial,
            throttle,
            shortage,
            told_of_limit: Seldom::default(),
            told_of_failure: Seldom::default(),
        }
    }

    /// What it is stored on.
    pub(crate) fn medium(&self) -> &Medium {
        &self.medium
    }

    /// The limits on requests and bytes a second.
    pub(crate) fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// What is done where there is no space.
    pub(crate) fn shortage(&self) -> &Shortage {
        &self.shortage
    }

    /// Its size.
    pub(crate) fn capacity(&self) -> Capacity {
        match &self.medium {
            Medium::ReadOnly(base) => base.capacity(),
            Medium::Burning(overlay) => overlay.capacity(),
        }
    }

    /// Whether guests cannot write it.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self.medium, Medium::ReadOnly(_))
    }

    /// What it offers drivers.
    pub(crate) fn features(&self) -> OfferedFeatures {
        OfferedFeatures::of_disk(self.is_read_only())
    }

    /// Waits until storage has delivered `place`, as far as `into` goes. What fails fails again for the request.
    pub(crate) fn warm(&self, place: Place, into: &mut [u8]) {
        let mut at = place.offset;
        let mut left = usize::try_from(place.bytes).unwrap_or(usize::MAX);
        while left > 0 {
            let piece = left.min(into.len());
            let into = into.get_mut(..piece).unwrap_or_default();
            let read = match (place.part, &self.medium) {
                (Part::Base, medium) => medium.base().read_bytes(at, into, Patience::Endless),
                (Part::Overlay, Medium::Burning(overlay)) => overlay.warm(at, into),
                (Part::Overlay, Medium::ReadOnly(_)) => return,
            };
            if read.is_err() || piece == 0 {
                return;
            }
            at = at.saturating_add(u64::try_from(piece).unwrap_or(u64::MAX));
            left = left.saturating_sub(piece);
        }
    }

    /// Lets a request through that is ready to be executed, as the limits on requests and bytes a second allow.
    ///
    /// # Errors
    /// [`PutDown::Later`].
    pub(crate) fn admit(&self, request: &Request<'_>) -> Result<(), PutDown> {
        let later = |time| Later {
            why: Waited::Throttled,
            time,
        };
        let admitted = self.throttle.admit(request.moved());
        admitted.map_err(|time| PutDown::Later(later(time)))
    }

    /// Executes a request.
    ///
    /// # Errors
    /// [`PutDown`].
    pub(crate) fn execute(&self, request: &Request<'_>, work: &mut Work<'_>) -> Result<Done, PutDown> {
        match self.perform(request, work) {
            Ok(written) => {
                if let (Request::Write { .. }, Some(overlay)) = (request, self.overlay()) {
                    self.shortage.written(overlay);
                }
                Ok(Done {
                    status: Status::Ok,
                    written: u32::try_from(written).unwrap_or(u32::MAX),
                })
            }
            Err(RequestError::Overlay(OverlayError::Stopped)) => Err(PutDown::Stopped),
            Err(RequestError::Overlay(OverlayError::Cold)) => Err(PutDown::Cold),
            Err(error) => {
                let held = self.is_held(&error);
                self.tell(&error, held);
                if held {
                    return Err(PutDown::Later(Later {
                        why: Waited::Held,
                        time: TRY_AGAIN,
                    }));
                }
                Ok(Done {
                    status: error.status(),
                    written: 0,
                })
            }
        }
    }

    /// Whether a request that failed so is to wait for space.
    fn is_held(&self, error: &RequestError) -> bool {
        match (error, self.overlay()) {
            (RequestError::Overlay(error), Some(overlay)) => self.shortage.is_cause_of(error, overlay) == AtLimit::Hold,
            (_, _) => false,
        }
    }

    /// Tells the operator why a request failed, or is held: loudly, once a minute, if it is something to act on.
    fn tell(&self, error: &RequestError, held: bool) {
        let told = match error {
            RequestError::Overlay(
                OverlayError::LimitReached | OverlayError::FloorReached(_) | OverlayError::MapLimitReached,
            ) => &self.told_of_limit,
            RequestError::Overlay(OverlayError::Io { .. }) => &self.told_of_failure,
            RequestError::Overlay(OverlayError::Stopped | OverlayError::Cold)
            | RequestError::Range { .. }
            | RequestError::SegmentLength(_)
            | RequestError::Flags
            | RequestError::ReadOnly
            | RequestError::Unsupported => {
                debug!("a request failed: {error}");
                return;
            }
        };
        let level = if told.is_due() { Level::Warn } else { Level::Debug };
        let what = if held {
            "a queue is held"
        } else {
            "a request failed, and the guest was told"
        };
        log!(level, "{what}: {}", chain(error));
    }

    /// The bytes written to guest memory.
    fn perform(&self, request: &Request<'_>, work: &mut Work<'_>) -> Result<usize, RequestError> {
        match *request {
            Request::Read { sector, count, into } => {
                self.read(self.range(sector, count)?, into, work)?;
                Ok(into.len())
            }
            Request::Write { sector, count, from } => {
                let overlay = self.overlay().ok_or(RequestError::ReadOnly)?;
                overlay.write(self.range(sector, count)?, from, work)?;
                Ok(0)
            }
            // An overlay that dies with its process has nothing to survive, so there is nothing to sync.
            Request::Flush => Ok(0),
            Request::GetId { into } => {
                into.copy_from(&self.serial);
                Ok(into.len().min(ID_BYTES))
            }
            Request::Discard(ref segments) => {
                let overlay = self.overlay().ok_or(RequestError::Unsupported)?;
                self.for_each(segments, RequestType::Discard, |range| overlay.discard(range, work))
            }
            Request::WriteZeroes(ref segments) => {
                let overlay = self.overlay().ok_or(RequestError::Unsupported)?;
                self.for_each(segments, RequestType::WriteZeroes, |range| {
                    overlay.write_zeroes(range, work)
                })
            }
            Request::Unsupported => Err(RequestError::Unsupported),
        }
    }

    fn read(&self, range: ByteRange, into: Buffers<'_>, work: &mut Work<'_>) -> Result<(), OverlayError> {
        match &self.medium {
            Medium::ReadOnly(base) => {
                let mut rest = into;
                let mut parts = Parts::default();
                for slice in range.pieces(SLICE_BYTES) {
                    work.go_on()?;
                    let now;
                    (now, rest) = rest.split_at(slice.len());
                    parts.go_on(read_base(base, slice, now, work))?;
                }
                parts.all_found()
            }
            Medium::Burning(overlay) => overlay.read(range, into, work),
        }
    }

    /// Where what changes goes; a read-only disk has none.
    pub(crate) fn overlay(&self) -> Option<&Overlay> {
        match &self.medium {
            Medium::ReadOnly(_) => None,
            Medium::Burning(overlay) => Some(overlay),
        }
    }

    fn range(&self, start: Sector, count: SectorCount) -> Result<ByteRange, RequestError> {
        self.capacity()
            .range(start, count)
            .ok_or(RequestError::Range { start, count })
    }

    /// Applies `operation` to every segment, once all of them are known to be good.
    fn for_each(
        &self,
        segments: &ZeroSegments,
        request: RequestType,
        mut operation: impl FnMut(ByteRange) -> Result<(), OverlayError>,
    ) -> Result<usize, RequestError> {
        for segment in segments.iter() {
            if !segment.has_known_flags(request) {
                return Err(RequestError::Flags);
            }
            if segment.count.0 > u64::from(ZERO_LIMITS.max_sectors) {
                return Err(RequestError::SegmentLength(segment.count));
            }
            self.range(segment.sector, segment.count)?;
        }
        let mut parts = Parts::default();
        for segment in segments.iter() {
            parts.go_on(operation(self.range(segment.sector, segment.count)?))?;
        }
        parts.all_found()?;
        Ok(0)
    }
}
