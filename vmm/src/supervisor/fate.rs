//! What becomes of what a guest wrote: the words for it, on the command line and in answer to a question. Looks at nothing.

use crate::keep::fresh::names_directory;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What becomes of what a guest wrote to a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is lost.
    Burn,
    /// The disk becomes its new base.
    Commit,
    /// The disk is written to a new file.
    Save(PathBuf),
}

/// Who decides that.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum OnExit {
    /// The operator, at the end.
    Ask,
    /// It is decided.
    Decided(Fate),
}

/// What can be answered to a question.
const ANSWERS: &str = "burn, commit or save=PATH";

impl FromStr for Fate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "burn" => Ok(Self::Burn),
            "commit" => Ok(Self::Commit),
            text => match text.split_once('=') {
                Some(("save", path)) if !path.is_empty() => Ok(Self::Save(path.into())),
                Some(_) | None => Err(format!("{text:?} is none of {ANSWERS}")),
            },
        }
    }
}

impl FromStr for OnExit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "ask" {
            return Ok(Self::Ask);
        }
        text.parse()
            .map(Self::Decided)
            .map_err(|error: String| format!("{error}, nor ask"))
    }
}

impl TryFrom<String> for OnExit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Fate {
    /// The fate of `disk` ("vda"), one of `disks`: an OUT that is a directory gets a file for each disk, another one the disk's
    /// name where there are several.
    pub(crate) fn of_disk(&self, disk: &str, disks: usize, is_dir: impl Fn(&Path) -> bool) -> Self {
        match self {
            Self::Save(out) if is_dir(out) => Self::Save(out.join(format!("{disk}.raw"))),
            // Where there is no such directory, that is an error for who opens it.
            Self::Save(out) if disks > 1 && !names_directory(out) => Self::Save(with_disk(out, disk)),
            Self::Burn | Self::Commit | Self::Save(_) => self.clone(),
        }
    }
}

/// `x.raw` as `x-vda.raw`.
fn with_disk(out: &Path, disk: &str) -> PathBuf {
    let mut name = out.file_stem().unwrap_or_default().to_owned();
    name.push("-");
    name.push(disk);
    if let Some(extension) = out.extension() {
        name.push(".");
        name.push(extension);
    }
    out.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_are_read_and_nonsense_is_told_what_would_not_be() {
        assert_eq!("ask".parse(), Ok(OnExit::Ask));
        assert_eq!("burn".parse(), Ok(OnExit::Decided(Fate::Burn)));
        assert_eq!(" commit\n".parse(), Ok(Fate::Commit));
        assert_eq!("save=a=b.raw".parse(), Ok(Fate::Save("a=b.raw".into())));
        for text in ["", "save", "save=", "keep", "ask"] {
            let error = text.parse::<Fate>().unwrap_err();
            assert!(error.contains("burn, commit or save=PATH"), "{error}");
        }
    }

    #[test]
    fn each_disk_has_a_file_of_its_own() {
        let save = |out: &str| Fate::Save(out.into());
        let none = |_: &Path| false;

        assert_eq!(save("x.raw").of_disk("vda", 1, none), save("x.raw"));
        assert_eq!(save("d/x.raw").of_disk("vdb", 2, none), save("d/x-vdb.raw"));
        assert_eq!(save("x").of_disk("vdb", 2, none), save("x-vdb"));
        assert_eq!(save("d").of_disk("vda", 1, |_| true), save("d/vda.raw"));
        assert_eq!(save("d/").of_disk("vdb", 2, none), save("d/"));
        assert_eq!(Fate::Commit.of_disk("vda", 2, none), Fate::Commit);
    }
}
