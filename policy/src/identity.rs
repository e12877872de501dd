//! Who the process is: root, which becomes somebody else and proves it, or an ordinary user, who stays.

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid, setuid};

use crate::error::StepError;
use crate::report::Layer;

/// A user to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user; 0 is refused.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Who started us.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Authority {
    /// Uid 0: it must become somebody else.
    Root,
    /// Anybody else: stays who it is.
    Ordinary {
        /// The own user.
        uid: Uid,
        /// The own group.
        gid: Gid,
    },
}

impl Authority {
    /// Reads who we are.
    ///
    /// # Errors
    ///
    /// Real, effective and saved ids must agree: a set-user-ID start would leave a way back.
    pub(crate) fn read() -> Result<Self, StepError> {
        let uids = getresuid().map_err(StepError::system("read the user ids"))?;
        let gids = getresgid().map_err(StepError::system("read the group ids"))?;
        let uid_agrees = uids.real == uids.effective && uids.effective == uids.saved;
        let gid_agrees = gids.real == gids.effective && gids.effective == gids.saved;
        if !(uid_agrees && gid_agrees) {
            return Err(StepError::User(
                "real, effective and saved ids differ (set-user-ID start)",
            ));
        }
        Ok(if uids.effective.is_root() {
            Self::Root
        } else {
            Self::Ordinary {
                uid: uids.real,
                gid: gids.real,
            }
        })
    }

    /// Root becomes `user`; an ordinary user stays. Returns who we must be from now on.
    pub(crate) fn assume(self, user: User) -> Result<User, StepError> {
        match self {
            Self::Root => become_user(user).map(|()| user),
            Self::Ordinary { uid, gid } => Ok(User {
                uid: uid.as_raw(),
                gid: gid.as_raw(),
            }),
        }
    }
}

/// Groups before the group, the group before the user: each needs what the next gives up.
fn become_user(user: User) -> Result<(), StepError> {
    if user.uid == 0 {
        return Err(StepError::User("uid 0 is never kept"));
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&[]).map_err(StepError::system("drop the supplementary groups"))?;
    setresgid(gid, gid, gid).map_err(StepError::system("change the group"))?;
    setresuid(uid, uid, uid).map_err(StepError::system("change the user"))
}

/// Reads back that all ids are `user`'s, and that there is no way to uid 0.
pub(crate) fn read_back(user: User, authority: Authority) -> Result<Layer, StepError> {
    const NAME: &str = "user";
    let not_in_force = |found| StepError::NotInForce { layer: NAME, found };
    let uids = getresuid().map_err(StepError::system("read the user ids back"))?;
    let gids = getresgid().map_err(StepError::system("read the group ids back"))?;
    let groups = getgroups().map_err(StepError::system("read the groups back"))?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));

    if [uids.real, uids.effective, uids.saved] != [uid; 3] {
        return Err(not_in_force(format!("the user ids are {uids:?}")));
    }
    if [gids.real, gids.effective, gids.saved] != [gid; 3] {
        return Err(not_in_force(format!("the group ids are {gids:?}")));
    }
    if matches!(authority, Authority::Root) && !groups.is_empty() {
        return Err(not_in_force(format!("the groups are {groups:?}")));
    }
    match setuid(Uid::from_raw(0)) {
        // EINVAL: this user namespace has no uid 0.
        Err(errno @ (Errno::EPERM | Errno::EINVAL)) => Ok(Layer::required(
            NAME,
            format!("uid {uid}, gid {gid}, {} groups; setuid(0): {errno}", groups.len()),
        )),
        other => Err(not_in_force(format!("setuid(0) answers {other:?}"))),
    }
}
