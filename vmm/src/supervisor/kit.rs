//! What the supervisor opens to hand over: kernel, initramfs, taps. Images and sockets are opened where they are used, because
//! the supervisor keeps none of those.

use super::host::Engine;
use super::settings::Settings;
use super::tap::{TapError, open_tap};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why something cannot be handed over.
#[derive(Debug, Error)]
pub(crate) enum KitError {
    #[error("cannot open the {what} {}", path.display())]
    Open {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the {what} {} is {kind}; give the path of {wanted}", path.display())]
    Kind {
        what: &'static str,
        path: PathBuf,
        kind: &'static str,
        wanted: &'static str,
    },
    #[error("cannot copy the {what} for a QEMU that does not run as root")]
    Copy {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tap(#[from] TapError),
}

/// What is kept for as long as there may be another VMM.
#[derive(Debug)]
pub(crate) struct Kit {
    taps: Vec<OwnedFd>,
    kernel: File,
    initrd: Option<File>,
}

impl Kit {
    /// Opens it all. Before anything else is opened: a tap may have been inherited, under a number that must not become
    /// somebody else's.
    ///
    /// # Errors
    /// [`KitError`].
    pub(crate) fn open_taps(settings: &Settings) -> Result<Vec<OwnedFd>, KitError> {
        let taps = settings.nets.iter().map(|net| open_tap(&net.tap));
        Ok(taps.collect::<Result<_, _>>()?)
    }

    /// Opens the rest.
    ///
    /// # Errors
    /// [`KitError`].
    pub(crate) fn open(settings: &Settings, engine: Engine, root: bool, taps: Vec<OwnedFd>) -> Result<Self, KitError> {
        let open = |what, path: &Path| {
            let file = open_regular(what, path)?;
            // QEMU opens what it finds under /dev/fd again, and will not be root by then.
            if engine == Engine::Qemu && root {
                return for_anybody(&file).map_err(|source| KitError::Copy { what, source });
            }
            Ok(file)
        };
        Ok(Self {
            kernel: open("kernel", &settings.kernel)?,
            initrd: settings
                .initrd
                .as_deref()
                .map(|path| open("initramfs", path))
                .transpose()?,
            taps,
        })
    }

    /// The kernel, to be read from its beginning.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn kernel(&mut self) -> io::Result<OwnedFd> {
        again(&mut self.kernel)
    }

    /// The initramfs, if there is one.
    ///
    /// # Errors
    /// As [`Kit::kernel`].
    pub(crate) fn initrd(&mut self) -> io::Result<Option<OwnedFd>> {
        self.initrd.as_mut().map(again).transpose()
    }

    /// The taps, which stay attached from one VMM to the next.
    ///
    /// # Errors
    /// As [`Kit::kernel`].
    pub(crate) fn taps(&self) -> io::Result<Vec<OwnedFd>> {
        self.taps.iter().map(OwnedFd::try_clone).collect()
    }
}

/// The same open file: there is one reader at a time, and each begins at the beginning.
fn again(file: &mut File) -> io::Result<OwnedFd> {
    file.rewind()?;
    file.try_clone().map(Into::into)
}

/// Opens an image, to be handed over at once. What kinds of it are served is for the helper to say; a directory, for which it
/// has no name, is refused here.
///
/// # Errors
/// [`KitError`].
pub(crate) fn open_image(path: &Path) -> Result<File, KitError> {
    let (file, kind) = open_any("image", path)?;
    if kind.is_dir() {
        return Err(KitError::Kind {
            what: "image",
            path: path.to_owned(),
            kind: "a directory",
            wanted: "a raw image or a block device",
        });
    }
    Ok(file)
}

fn open_regular(what: &'static str, path: &Path) -> Result<File, KitError> {
    let (file, kind) = open_any(what, path)?;
    if !kind.is_file() {
        return Err(KitError::Kind {
            what,
            path: path.to_owned(),
            kind: if kind.is_dir() {
                "a directory"
            } else {
                "not a regular file"
            },
            wanted: "the file itself",
        });
    }
    Ok(file)
}

fn open_any(what: &'static str, path: &Path) -> Result<(File, std::fs::FileType), KitError> {
    // O_NONBLOCK: a FIFO must fail the check of its kind, not wait for a writer.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path);
    opened
        .and_then(|file| file.metadata().map(|info| (file, info.file_type())))
        .map_err(|source| KitError::Open {
            what,
            path: path.to_owned(),
            source,
        })
}

/// A copy that any user's process can read, and nobody can change.
fn for_anybody(file: &File) -> io::Result<File> {
    let mut copy: File = memfd_create("mayfly-boot", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?.into();
    let mut from = file;
    io::copy(&mut from, &mut copy)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::logging::chain;
    use std::io::Read;

    #[test]
    fn what_cannot_be_opened_is_named() {
        let error = open_image(Path::new("/nowhere/x.raw")).unwrap_err();
        assert_eq!(
            chain(&error),
            "cannot open the image /nowhere/x.raw: No such file or directory (os error 2)"
        );
        let error = open_image(Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("a directory"), "{error}");
        let error = open_regular("kernel", Path::new("/dev/null")).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[test]
    fn each_reader_begins_at_the_beginning() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"kernel").unwrap();

        for _ in 0..2 {
            let mut text = String::new();
            File::from(again(&mut file).unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "kernel");
        }
    }

    #[test]
    fn a_copy_for_anybody_cannot_be_changed() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"kernel").unwrap();
        file.rewind().unwrap();

        let mut copy = for_anybody(&file).unwrap();

        copy.rewind().unwrap();
        io::Write::write_all(&mut copy, b"K").unwrap_err();
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kernel");
    }
}
