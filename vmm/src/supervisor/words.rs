//! Words of the command line and the configuration file: sizes, disks, network cards, users. Each is read from text, totally,
//! and knows what is wrong with the text in a sentence for who wrote it. None of them looks at the host.

use crate::contract::Mac;
use crate::contract::import::Format;
use protocol::blk::ID_BYTES;
use protocol::size;
use serde::Deserialize;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

pub(crate) use self::limits::DiskLimits;

mod limits;

/// A number of bytes, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        size::parse(text).map(Self)
    }
}

/// Whom root's processes become. An ordinary user's stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// Who it is if nobody says: the kernel's own "nobody".
    pub(crate) const NOBODY: Self = Self { uid: 65534, gid: 65534 };
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| match text.parse() {
            Ok(0) => Err("no process that a guest can reach runs as root"),
            // The system calls take this value to mean "leave it as it is".
            Ok(u32::MAX) | Err(_) => Err("give UID or UID:GID as numbers"),
            Ok(number) => Ok(number),
        };
        Ok(Self {
            uid: number(uid)?,
            gid: number(gid)?,
        })
    }
}

/// A disk that burns, or one that is only read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Disk {
    pub(crate) image: PathBuf,
    /// What the image was imported from, if it was: by that the operator knows it.
    pub(crate) imported_from: Option<PathBuf>,
    pub(crate) read_only: bool,
    pub(crate) raw_anyway: bool,
    pub(crate) no_encrypt: bool,
    pub(crate) overlay_dir: Option<PathBuf>,
    pub(crate) limits: DiskLimits,
    pub(crate) serial: Option<String>,
    /// Where its helper takes orders.
    pub(crate) control: Option<PathBuf>,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = commas(text).into_iter();
        let image = parts
            .next()
            .filter(|path| !path.is_empty())
            .ok_or("give the image's path")?;
        let mut disk = Self {
            image: image.into(),
            ..Self::default()
        };
        for part in parts {
            match part.split_once('=') {
                None if part == "ro" => disk.read_only = true,
                None if part == "raw-anyway" => disk.raw_anyway = true,
                None if part == "no-encrypt" => disk.no_encrypt = true,
                Some(("overlay-dir", dir)) if !dir.is_empty() => disk.overlay_dir = Some(dir.into()),
                Some(("control", path)) if !path.is_empty() => disk.control = Some(path.into()),
                Some(("serial", serial)) => disk.serial = Some(serial_number(serial)?),
                Some((limit, value)) if disk.limits.take(limit, value)? => {}
                None | Some(_) => {
                    return Err(format!(
                        "{part:?} is not an option of a disk; those are ro, raw-anyway, no-encrypt, overlay-dir=DIR, \
                         overlay-limit=SIZE, map-limit=SIZE, keep-free=SIZE, at-limit=error|hold, iops=N[:BURST], \
                         bandwidth=SIZE[:BURST], serial=ID and control=SOCKET (write a comma that belongs to a path twice)"
                    ));
                }
            }
        }
        let overlaid = disk.no_encrypt || disk.overlay_dir.is_some() || disk.limits.are_of_an_overlay();
        if disk.read_only && overlaid {
            return Err("a disk that is only read (ro) has no overlay; of the limits it has iops and bandwidth".into());
        }
        Ok(disk)
    }
}

/// What an image is based on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    pub(crate) file: PathBuf,
    /// Without one it is what the image above it records.
    pub(crate) format: Option<Format>,
}

impl FromStr for Backing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = commas(text);
        let (file, options) = parts.split_first().ok_or("give the file's path")?;
        let format = match options {
            [] => None,
            [option] if option == "format=qcow2" => Some(Format::Qcow2),
            [option] if option == "format=raw" => Some(Format::Raw),
            _ => {
                return Err(
                    "a backing file has one option, format=qcow2 or format=raw (write a comma that belongs to a path \
                            twice)"
                        .into(),
                );
            }
        };
        if file.is_empty() {
            return Err("give the file's path".into());
        }
        Ok(Self {
            file: file.into(),
            format,
        })
    }
}

fn serial_number(text: &str) -> Result<String, String> {
    if text.len() > ID_BYTES || text.contains(char::is_control) {
        return Err(format!(
            "a serial number has at most {ID_BYTES} bytes, none of them a control character"
        ));
    }
    Ok(text.into())
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Net {
    pub(crate) tap: Tap,
    /// Without one the card has an address of its own in each run.
    pub(crate) mac: Option<Mac>,
}

/// The host's end of a network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tap {
    /// An interface to be opened.
    Name(String),
    /// A descriptor that was inherited.
    Descriptor(RawFd),
}

/// The longest name of a network interface (IFNAMSIZ less the final zero).
const TAP_NAME_MAX: usize = 15;

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut tap = None;
        let mut mac = None;
        for part in commas(text) {
            let before = match part.split_once('=') {
                Some(("tap", name)) => tap.replace(Tap::Name(tap_name(name)?)).map(drop),
                Some(("fd", number)) => tap.replace(Tap::Descriptor(descriptor(number)?)).map(drop),
                Some(("mac", address)) => mac.replace(parse_mac(address)?).map(drop),
                None | Some(_) => {
                    return Err(format!(
                        "{part:?} is not an option of a network card; those are tap=NAME or fd=N, and mac=ADDRESS"
                    ));
                }
            };
            if before.is_some() {
                return Err("give one tap=NAME or fd=N, and one mac=ADDRESS at most".into());
            }
        }
        Ok(Self {
            tap: tap.ok_or("give tap=NAME or fd=N")?,
            mac,
        })
    }
}

fn tap_name(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_graphic() && c != '/' && c != '%';
    if name.is_empty() || name.len() > TAP_NAME_MAX || !name.chars().all(plain) {
        return Err(format!(
            "a tap's name has 1 to {TAP_NAME_MAX} characters, without / and %"
        ));
    }
    Ok(name.into())
}

fn descriptor(text: &str) -> Result<RawFd, String> {
    match text.parse() {
        Ok(number) if number > 2 => Ok(number),
        Ok(_) | Err(_) => Err("give fd=N with the number of a descriptor above 2".into()),
    }
}

fn parse_mac(text: &str) -> Result<Mac, String> {
    let Mac(address) = text.parse()?;
    if address[0] & 1 == 1 || address == [0; 6] {
        return Err(format!(
            "{text} is no single card's address: the first byte must be even, and not all of it zero"
        ));
    }
    Ok(Mac(address))
}

/// Cuts at commas; a doubled comma is one that belongs to the text.
fn commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let cut = c == ',' && rest.next_if_eq(&',').is_none();
        if cut {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

/// A configuration file has these words as strings, which are read as on the command line.
macro_rules! from_string {
    ($($word:ty),*) => {$(
        impl TryFrom<String> for $word {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    )*};
}

from_string!(Size, User, Disk, Net);

#[cfg(test)]
mod tests;
