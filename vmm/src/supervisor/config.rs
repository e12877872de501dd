//! The configuration file: TOML, whose keys are the long options of `mayfly run`. Knows no option by name.

use super::args::{DiskSource, Options};
use super::fate::{Fate, OnExit};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a configuration file is not used.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot understand the configuration file {} (its keys are the long options of mayfly run, without the dashes)",
        path.display()
    )]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// Reads the file at `path`. Relative paths in it are meant from where it lies.
///
/// # Errors
/// [`ConfigError`]; the message names file, line and key.
pub(crate) fn read(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut options: Options = toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    options.settle_order_of_file();
    options.start_from(path.parent().unwrap_or(Path::new("")));
    Ok(options)
}

impl Options {
    /// Makes relative paths start from `dir`.
    fn start_from(&mut self, dir: &Path) {
        let absolute = |path: &mut PathBuf| *path = dir.join(&*path);
        for disk in &mut self.disks {
            match disk {
                DiskSource::Socket(path) => absolute(path),
                DiskSource::Image(disk) => {
                    absolute(&mut disk.image);
                    disk.overlay_dir.iter_mut().chain(&mut disk.control).for_each(absolute);
                }
            }
        }
        if let Some(OnExit::Decided(Fate::Save(path))) = &mut self.on_exit {
            absolute(path);
        }
        for path in [&mut self.kernel, &mut self.initrd, &mut self.overlay_dir] {
            path.iter_mut().for_each(absolute);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::logging::chain;

    fn read_text(text: &str) -> (tempfile::TempDir, Result<Options, ConfigError>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.toml");
        std::fs::write(&path, text).unwrap();
        let options = read(&path);
        (dir, options)
    }

    #[test]
    fn keys_are_options_and_paths_start_from_the_file() {
        let (dir, options) = read_text(
            "kernel = 'vmlinuz'\ndisk = ['a.raw,overlay-dir=o', '/b.raw,ro']\ndisk-socket = ['s']\nmemory = '2G'\n\
             on-exit = 'save=out'\ncpus = 4\noverlay-limit = '1G'\nnet = ['tap=tap0']\naccel = 'qemu'\nuser = '1000'\n\
             verbose = true\nimport = true\n",
        );
        let options = options.unwrap();

        assert_eq!(options.kernel, Some(dir.path().join("vmlinuz")));
        let [DiskSource::Image(a), DiskSource::Image(b), DiskSource::Socket(s)] = &options.disks[..] else {
            panic!("{options:?}");
        };
        assert_eq!(a.image, dir.path().join("a.raw"));
        assert_eq!(a.overlay_dir, Some(dir.path().join("o")));
        assert_eq!((b.image.as_path(), b.read_only), (Path::new("/b.raw"), true));
        assert_eq!(*s, dir.path().join("s"));
        let out = dir.path().join("out");
        assert_eq!(options.on_exit, Some(OnExit::Decided(Fate::Save(out))));
        assert_eq!((options.cpus, options.verbose, options.net.len()), (Some(4), true, 1));
        assert!(options.import);
    }

    #[test]
    fn what_cannot_be_understood_is_named_with_file_and_key() {
        for (text, named) in [
            ("kernal = 'x'\n", "kernal"),
            ("memory = 'much'\n", "10G"),
            ("memory = 4\n", "memory"),
            ("disk = 'one'\n", "disk"),
            ("disk = ['a,rw']\n", "rw"),
            ("cpus = 1000\n", "cpus"),
            ("accel = 'xen'\n", "xen"),
            ("kernel\n", "line 1"),
            ("config = 'other.toml'\n", "config"),
        ] {
            let (dir, options) = read_text(text);

            let error = chain(&options.expect_err(text));

            assert!(error.contains(named), "{text}: {error}");
            assert!(
                error.contains(&dir.path().join("vm.toml").display().to_string()),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = chain(&read(Path::new("/nowhere/vm.toml")).unwrap_err());

        assert!(
            error.contains("/nowhere/vm.toml") && error.contains("No such file"),
            "{error}"
        );
    }
}
