//! The limits of one disk: words of `--disk` that are `blk-helper`'s options without their dashes. They are read as the helper
//! reads them, by the same functions, so that what it would refuse is refused before anything is started; it gets them as
//! arguments, and so they hold from its first request on. What they do is the helper's to know.

use super::Size;
use protocol::control::{AtLimit, Rate};

/// What is limited; what is not named is as the helper has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskLimits {
    pub(crate) overlay: Option<Size>,
    pub(crate) map: Option<Size>,
    pub(crate) keep_free: Option<Size>,
    pub(crate) at_limit: Option<AtLimit>,
    pub(crate) iops: Option<Rate>,
    pub(crate) bandwidth: Option<Rate>,
}

impl DiskLimits {
    /// Takes the limit called `name`; false if there is none of that name.
    ///
    /// # Errors
    /// What is wrong with `value`, in words for people.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let wrong = |reason| format!("{name}: {reason}");
        match name {
            "overlay-limit" => self.overlay = Some(value.parse().map_err(wrong)?),
            "map-limit" => self.map = Some(value.parse().map_err(wrong)?),
            "keep-free" => self.keep_free = Some(value.parse().map_err(wrong)?),
            "at-limit" => self.at_limit = Some(value.parse().map_err(wrong)?),
            "iops" => self.iops = Some(Rate::parse_requests(value).map_err(wrong)?),
            "bandwidth" => self.bandwidth = Some(Rate::parse_bytes(value).map_err(wrong)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether something of an overlay is limited, which a disk that is only read has not.
    pub(super) fn are_of_an_overlay(&self) -> bool {
        let sizes = [self.overlay, self.map, self.keep_free];
        sizes.iter().any(Option::is_some) || self.at_limit.is_some()
    }

    /// What the helper is told. `overlay` is the limit of an overlay for which there is none here.
    pub(crate) fn to_args(&self, overlay: Option<Size>) -> Vec<String> {
        let sizes = [
            ("overlay-limit", self.overlay.or(overlay)),
            ("map-limit", self.map),
            ("keep-free", self.keep_free),
        ];
        let sizes = sizes.map(|(name, size)| size.map(|Size(bytes)| format!("--{name}={bytes}")));
        let at_limit = self.at_limit.map(|what| format!("--at-limit={}", what.name()));
        let rates = [("iops", self.iops), ("bandwidth", self.bandwidth)];
        let rates = rates.map(|(name, rate)| rate.map(|rate| format!("--{name}={}:{}", rate.per_second, rate.burst)));
        sizes.into_iter().chain([at_limit]).chain(rates).flatten().collect()
    }
}
