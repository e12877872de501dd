//! A file that appears under its name whole or not at all, and never over another one.
//!
//! It has no name until it is kept (`O_TMPFILE`), so that nothing is left behind whatever happens. Where a file system has no
//! such files it has a name that begins with a dot, which is removed unless it is kept; only SIGKILL or a power cut leave it.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, renameat2};
use nix::unistd::linkat;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why there is no such file.
#[derive(Debug, Error)]
pub(crate) enum OutputError {
    #[error("{} is there already; remove it, or give another name: mayfly import IN OUT", .0.display())]
    Exists(PathBuf),
    #[error("{} has no file name", .0.display())]
    NoName(PathBuf),
    #[error("cannot create {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot bring {} to the disk", path.display())]
    Sync {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot give the finished file its name {}", path.display())]
    Name {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The file, empty at first.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    path: PathBuf,
    dir: PathBuf,
    /// The name that it has for the time being.
    temporary: Option<PathBuf>,
}

impl Output {
    /// Creates it, to be kept at `path`; `mode` is what the umask is taken from.
    ///
    /// # Errors
    /// There is something at `path`, or nothing can be created there.
    pub(crate) fn create(path: &Path, mode: u32) -> Result<Self, OutputError> {
        if path.symlink_metadata().is_ok() {
            return Err(OutputError::Exists(path.to_owned()));
        }
        let name = path.file_name().ok_or_else(|| OutputError::NoName(path.to_owned()))?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new(".")).to_owned();
        let nameless = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(mode)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(&dir);
        let (file, temporary) = match nameless {
            Ok(file) => (file, None),
            // Kernels and file systems that do not know O_TMPFILE see an attempt to write a directory.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
                ) =>
            {
                let (file, temporary) = named(&dir, name.to_owned(), mode).map_err(|source| OutputError::Create {
                    path: path.to_owned(),
                    source,
                })?;
                (file, Some(temporary))
            }
            Err(source) => {
                return Err(OutputError::Create {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            dir,
            temporary,
        })
    }

    /// To be written.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, once it is on the disk.
    ///
    /// # Errors
    /// It could not be written to the end, or its name is taken by now.
    pub(crate) fn keep(mut self) -> Result<Metadata, OutputError> {
        let path = self.path.clone();
        let unsynced = |source| OutputError::Sync {
            path: path.clone(),
            source,
        };
        self.file.sync_all().map_err(unsynced)?;
        self.name().map_err(|errno| {
            let path = path.clone();
            if errno == Errno::EEXIST {
                return OutputError::Exists(path);
            }
            OutputError::Name {
                path,
                source: errno.into(),
            }
        })?;
        self.temporary = None;
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.and_then(|()| self.file.metadata()).map_err(unsynced)
    }

    fn name(&self) -> Result<(), Errno> {
        let Some(temporary) = &self.temporary else {
            let nameless = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            return linkat(
                AT_FDCWD,
                nameless.as_str(),
                AT_FDCWD,
                &self.path,
                AtFlags::AT_SYMLINK_FOLLOW,
            );
        };
        match renameat2(AT_FDCWD, temporary, AT_FDCWD, &self.path, RenameFlags::RENAME_NOREPLACE) {
            // A file system that cannot promise not to replace anything: a second name can.
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                linkat(AT_FDCWD, temporary, AT_FDCWD, &self.path, AtFlags::empty())?;
                nix::unistd::unlink(temporary)
            }
            done => done,
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nobody is left who could do something about it.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// A file with a name for the time being, which says whose it is.
fn named(dir: &Path, name: OsString, mode: u32) -> io::Result<(File, PathBuf)> {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".mayfly-{}", std::process::id()));
    let path = dir.join(hidden);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(mode).open(&path)?;
    Ok((file, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::FileExt;

    fn names(dir: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    /// An output in `dir` as on a file system without nameless files, and one as this file system has it.
    fn both_kinds(dir: &Path) -> [Output; 2] {
        let path = dir.join("x.raw");
        let (file, temporary) = named(dir, "x.raw".into(), 0o600).unwrap();
        let named = Output {
            file,
            path: path.clone(),
            dir: dir.to_owned(),
            temporary: Some(temporary),
        };
        [named, Output::create(&path, 0o600).unwrap()]
    }

    #[test]
    fn it_appears_whole_or_not_at_all() {
        for kind in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            for kept in [false, true] {
                let output = both_kinds(dir.path()).into_iter().nth(kind).unwrap();
                output.file().write_all_at(b"disk", 0).unwrap();
                if kept {
                    assert_eq!(output.keep().unwrap().len(), 4);
                    assert_eq!(names(dir.path()), ["x.raw"]);
                } else {
                    drop(output);
                    assert!(names(dir.path()).is_empty());
                }
            }
        }
    }

    #[test]
    fn nothing_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = both_kinds(dir.path());
        fs::write(dir.path().join("x.raw"), "mine").unwrap();

        for output in outputs {
            assert!(matches!(output.keep(), Err(OutputError::Exists(_))));
        }
        let refused = Output::create(&dir.path().join("x.raw"), 0o600);
        assert!(matches!(refused, Err(OutputError::Exists(_))));
        assert_eq!(fs::read(dir.path().join("x.raw")).unwrap(), b"mine");
        assert_eq!(names(dir.path()), ["x.raw"]);
    }
}
