//! Keeping what a guest wrote: what `mayfly ctl` and `mayfly run` share of saving and committing.
//!
//! A helper has no path; it gets an open file ([`fresh`]) and fills it. [`follow`] is the conversation about that, [`headway`] how
//! long it may last, [`commit`] makes the file the new base, [`attributes`] are what goes with it.

pub(crate) mod attributes;
pub(crate) mod commit;
pub(crate) mod follow;
pub(crate) mod fresh;
pub(crate) mod headway;
