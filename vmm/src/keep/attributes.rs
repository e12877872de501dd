//! What a file is besides its bytes: whose it is, who may do what with it, and what else is noted with it (extended attributes,
//! of which access control lists are some).

use rustix::fs::{Gid, Mode, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use thiserror::Error;

/// The longest list of names, and the longest value, that Linux has (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const LONGEST: usize = 64 << 10;

/// The bits of a mode that chmod sets.
const MODE_BITS: u32 = 0o7777;

/// Which attribute cannot be kept.
#[derive(Debug, Error)]
#[error("the new file cannot have the {what} of the old one")]
pub(crate) struct Lost {
    what: String,
    #[source]
    source: io::Error,
}

/// The attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    extended: BTreeMap<CString, Vec<u8>>,
}

impl Attributes {
    /// Those of `file`.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub(crate) fn of(file: &File) -> Result<Self, Errno> {
        let info = fstat(file)?;
        Ok(Self {
            uid: info.st_uid,
            gid: info.st_gid,
            mode: info.st_mode & MODE_BITS,
            extended: extended(file)?,
        })
    }

    /// Gives them to `file`, and reads back that it has them.
    ///
    /// # Errors
    /// The first that it cannot have.
    pub(crate) fn give(&self, file: &File) -> Result<(), Lost> {
        let unlike = Self::of(file).map_err(lost("attributes"))?;
        let uid = (unlike.uid != self.uid).then(|| Uid::from_raw(self.uid));
        let gid = (unlike.gid != self.gid).then(|| Gid::from_raw(self.gid));
        if uid.is_some() || gid.is_some() {
            fchown(file, uid, gid).map_err(lost("owner or group"))?;
        }
        for name in unlike.extended.keys().filter(|name| !self.extended.contains_key(*name)) {
            fremovexattr(file, name.as_c_str()).map_err(lost_extended(name))?;
        }
        for (name, value) in &self.extended {
            if unlike.extended.get(name) != Some(value) {
                fsetxattr(file, name.as_c_str(), value, XattrFlags::empty()).map_err(lost_extended(name))?;
            }
        }
        // Last, for a change of the owner takes bits away, and an access control list sets some.
        fchmod(file, Mode::from_raw_mode(self.mode)).map_err(lost("mode"))?;
        if Self::of(file).map_err(lost("attributes"))? == *self {
            Ok(())
        } else {
            Err(lost("attributes")(Errno::NOTSUP))
        }
    }

    /// Gives as many of them as `file` can have; it belongs to whoever made it then.
    pub(crate) fn give_what_can_be(&self, file: &File) {
        for (name, value) in &self.extended {
            // As said.
            let _ = fsetxattr(file, name.as_c_str(), value, XattrFlags::empty());
        }
        let _ = fchown(file, None, Some(Gid::from_raw(self.gid)));
        let _ = fchmod(file, Mode::from_raw_mode(self.mode));
    }
}

#[cfg(test)]
impl Attributes {
    /// One that no file can have.
    pub(super) fn add_impossible(&mut self) {
        self.extended.insert(c"nonsense.x".into(), Vec::new());
    }
}

/// Lets nobody but the owner read it until it is whole.
///
/// # Errors
/// Whatever the kernel says.
pub(crate) fn hide(file: &File) -> Result<(), Errno> {
    fchmod(file, Mode::RUSR | Mode::WUSR)
}

fn extended(file: &File) -> Result<BTreeMap<CString, Vec<u8>>, Errno> {
    let mut list = vec![0; LONGEST];
    let length = match flistxattr(file, &mut list[..]) {
        Ok(length) => length,
        // The file system has none.
        Err(Errno::NOTSUP | Errno::NOSYS) => 0,
        Err(errno) => return Err(errno),
    };
    let names = list
        .get(..length)
        .unwrap_or_default()
        .split_inclusive(|byte| *byte == 0);
    let mut found = BTreeMap::new();
    for name in names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        let mut value = vec![0; LONGEST];
        let length = fgetxattr(file, name, &mut value[..])?;
        value.truncate(length);
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

fn lost(what: &'static str) -> impl FnOnce(Errno) -> Lost {
    move |errno| Lost {
        what: what.to_owned(),
        source: errno.into(),
    }
}

fn lost_extended(name: &CStr) -> impl FnOnce(Errno) -> Lost {
    let what = format!("extended attribute {}", name.to_string_lossy().escape_debug());
    move |errno| Lost {
        what,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_the_attributes_of_another() {
        let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        fchmod(&one, Mode::from_raw_mode(0o604)).unwrap();
        let marked = fsetxattr(&one, c"user.mayfly", b"golden", XattrFlags::empty()).is_ok();
        let _ = fsetxattr(&other, c"user.surplus", b"", XattrFlags::empty());
        let wanted = Attributes::of(&one).unwrap();
        assert_eq!(wanted.extended.contains_key(c"user.mayfly"), marked);

        wanted.give(&other).unwrap();
        hide(&other).unwrap();
        assert_ne!(Attributes::of(&other).unwrap(), wanted);
        wanted.give(&other).unwrap();

        assert_eq!(Attributes::of(&other).unwrap(), wanted);
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        let file = tempfile::tempfile().unwrap();
        let mut wanted = Attributes::of(&file).unwrap();
        wanted.add_impossible();

        let error = wanted.give(&file).unwrap_err();

        assert!(error.to_string().contains("extended attribute nonsense.x"), "{error}");
        wanted.give_what_can_be(&file);
    }
}
