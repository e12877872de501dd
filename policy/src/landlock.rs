//! Landlock: handle every right that the kernel knows and allow none.
//!
//! Covers what the empty root does where namespaces are forbidden, and more: TCP ports (ABI 4), device ioctls (5), abstract Unix
//! sockets and signals to other processes (6). Descriptors that are open already keep working; that is the point.

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};

use crate::error::StepError;
use crate::report::Layer;

/// The newest ABI that the crate knows; an older kernel gets what it knows of it.
const NEWEST: ABI = ABI::V9;

/// The layer's name.
const NAME: &str = "landlock";

/// Denies everything that landlock can deny. Needs no privilege, because no-new-privs is set by then.
pub(crate) fn deny_all() -> Result<Layer, StepError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .and_then(::landlock::RulesetCreated::restrict_self)
        .map_err(StepError::Landlock)?;
    // Best effort is for what a kernel is too old to know; at least ABI 1, which denies opening and creating, must be there.
    match (&status.ruleset, &status.landlock) {
        (
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            LandlockStatus::Available {
                effective_abi,
                kernel_abi,
                ..
            },
        ) => {
            let kernel = kernel_abi.map_or_else(String::new, |abi| format!(" of the kernel's {abi}"));
            Ok(Layer::required(
                NAME,
                format!("ABI {effective_abi}{kernel}: all that it can deny is denied"),
            ))
        }
        (_, landlock) => Err(StepError::NotInForce {
            layer: NAME,
            found: format!("the kernel says {landlock:?}"),
        }),
    }
}
