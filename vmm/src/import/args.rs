//! The command line of `mayfly-import`, which `mayfly` writes: [`ImportSpec::to_args`].

use crate::contract::import::{Format, ImageSpec, ImportSpec};
use crate::contract::user;
use clap::Parser;
use std::os::fd::RawFd;

/// Convert a qcow2 image into a raw one in a confined process. Started by `mayfly import`, which people type.
#[derive(Debug, Parser)]
#[command(name = "mayfly-import", version, max_term_width = 100)]
pub(super) struct Config {
    /// Confine a process of this kind, show what the kernel says of it, attempt what must be impossible, and exit
    #[arg(long)]
    pub(super) check_confinement: bool,

    /// Confine this process and attempt one forbidden act in it
    #[arg(long, value_name = "WHAT", hide = true, conflicts_with = "check_confinement")]
    pub(super) attempt: Option<String>,

    #[command(flatten)]
    conversion: Option<Conversion>,

    /// Whom the process becomes when started by root; never root
    #[arg(long, value_name = "UID:GID", value_parser = user, default_value = "65534:65534")]
    pub(super) user: (u32, u32),

    /// Log at debug level too
    #[arg(long)]
    pub(super) verbose: bool,
}

#[derive(Clone, Debug, clap::Args)]
#[group(id = "conversion", conflicts_with_all = ["check_confinement", "attempt"])]
struct Conversion {
    /// An image, open and read-only, and its format: qcow2, raw or as-recorded. The image first, then what it is based on
    #[arg(long, value_name = "N,FORMAT", value_parser = image, required = true)]
    image: Vec<ImageSpec>,

    /// What is written: an empty regular file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..))]
    output: RawFd,

    /// The largest disk that is wanted
    #[arg(long, value_name = "BYTES")]
    max_size: u64,
}

impl Config {
    /// Reads the command line; where it makes no sense, says so and ends the process as clap does (exit code 2).
    pub(super) fn from_command_line() -> Self {
        <Self as Parser>::parse()
    }

    /// The conversion to do; none on an errand.
    pub(super) fn spec(&self) -> Option<ImportSpec> {
        let conversion = self.conversion.clone()?;
        Some(ImportSpec {
            images: conversion.image,
            output: conversion.output,
            bytes_max: conversion.max_size,
            user: self.user,
            verbose: self.verbose,
        })
    }
}

fn image(text: &str) -> Result<ImageSpec, &'static str> {
    let (number, format) = text.split_once(',').ok_or("give a descriptor, a comma and a format")?;
    match number.parse() {
        Ok(image) if image > 2 => Ok(ImageSpec {
            image,
            format: format.parse::<Format>()?,
        }),
        Ok(_) | Err(_) => Err("give the number of a descriptor above 2"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::import::IMAGES_MAX;

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(std::iter::once("mayfly-import").chain(args.iter().copied()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Config as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn what_the_supervisor_writes_is_what_is_read() {
        let image = |image, format| ImageSpec { image, format };
        for images in 1..IMAGES_MAX {
            let backing = (4..).map(|number| image(number, Format::AsRecorded)).take(images - 1);
            let spec = ImportSpec {
                images: [image(3, Format::Qcow2)].into_iter().chain(backing).collect(),
                output: 40,
                bytes_max: 1 << 40,
                user: (1000, 1000),
                verbose: images == 2,
            };
            let args = spec.to_args();

            let read = parse(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();

            assert_eq!(read.spec(), Some(spec));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        const WHOLE: [&str; 3] = ["--image=3,qcow2", "--output=4", "--max-size=1"];
        assert!(parse(&WHOLE).unwrap().spec().is_some());
        assert!(parse(&["--check-confinement"]).unwrap().spec().is_none());
        for wrong in [
            "--image=2,raw",
            "--image=5",
            "--image=5,vmdk",
            "--user=0:0",
            "--attempt=open",
        ] {
            parse(&[&WHOLE[..], &[wrong]].concat()).expect_err(wrong);
        }
        parse(&WHOLE[..2]).unwrap_err();
    }
}
