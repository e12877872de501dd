//! The five capability sets: emptied, then read back.
//!
//! The bounding set goes by raw numbers until the kernel knows no more, so that capabilities newer than the `caps` crate go too.

use ::caps::{CapSet, Capability, clear, read};
use nix::errno::Errno;

use crate::error::StepError;
use crate::probe::CapabilitySets;
use crate::report::Layer;
use crate::sys;

/// Capability numbers are below this: the kernel keeps a set in 64 bits.
const NUMBERS: u8 = 64;

/// Empties the bounding set, while the process still may. What came of it is read back by [`bounding_layer`].
pub(crate) fn drop_bounding() -> Result<(), Errno> {
    for number in 0..NUMBERS {
        match sys::bounding_has(number) {
            Ok(true) => sys::bounding_drop(number)?,
            Ok(false) => {}
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Empties the ambient, inheritable, permitted and effective sets, as far as they are not empty already.
pub(crate) fn empty() -> Result<(), StepError> {
    // Permitted before effective would do as well: clearing permitted clears effective with it.
    for (set, name) in [
        (CapSet::Ambient, "ambient"),
        (CapSet::Inheritable, "inheritable"),
        (CapSet::Effective, "effective"),
        (CapSet::Permitted, "permitted"),
    ] {
        if mask(set, name)? != 0 {
            clear(None, set).map_err(|source| StepError::Capabilities {
                doing: "empty",
                set: name,
                source,
            })?;
        }
    }
    Ok(())
}

/// The five sets of the calling thread, as the kernel has them.
pub(crate) fn sets() -> Result<CapabilitySets, StepError> {
    Ok(CapabilitySets {
        effective: mask(CapSet::Effective, "effective")?,
        permitted: mask(CapSet::Permitted, "permitted")?,
        inheritable: mask(CapSet::Inheritable, "inheritable")?,
        ambient: mask(CapSet::Ambient, "ambient")?,
        bounding: bounding(),
    })
}

/// The layer of the four sets that must be empty.
pub(crate) fn layer(sets: &CapabilitySets) -> Result<Layer, StepError> {
    if sets.give_nothing() {
        let evidence = "effective, permitted, inheritable and ambient sets = 0";
        return Ok(Layer::required("no capabilities", evidence));
    }
    Err(StepError::NotInForce {
        layer: "no capabilities",
        found: sets.to_string(),
    })
}

/// The layer of the bounding set. An ordinary user without a user namespace may not empty it; no-new-privs makes it moot.
pub(crate) fn bounding_layer(sets: &CapabilitySets, outcome: Result<(), Errno>) -> Layer {
    let result = match (sets.bounding, outcome) {
        (0, _) => Ok("bounding set = 0".to_owned()),
        (left, Err(errno)) => Err(format!(
            "not permitted: {errno}; {left:#x} left, moot under no-new-privs"
        )),
        (left, Ok(())) => Err(format!("{left:#x} left, moot under no-new-privs")),
    };
    Layer::where_permitted("bounding set", result)
}

/// One set as bits.
fn mask(set: CapSet, name: &'static str) -> Result<u64, StepError> {
    let held = read(None, set).map_err(|source| StepError::Capabilities {
        doing: "read",
        set: name,
        source,
    })?;
    Ok(held.iter().map(Capability::bitmask).fold(0, |all, bit| all | bit))
}

/// The bounding set as bits.
fn bounding() -> u64 {
    (0..NUMBERS)
        .filter(|number| sys::bounding_has(*number) == Ok(true))
        .fold(0, |all, number| all | 1 << number)
}
