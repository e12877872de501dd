//! A whole distribution, from the image that everybody shares: it boots to its login, finds nothing wrong, and goes off.

use std::time::Instant;

use tests::guest::{Assets, Guest, GuestError, System};
use tests::place::Place;

use crate::machine::{BOOT, mayfly, ok};

pub(crate) fn boots_to_its_login() -> Result<String, GuestError> {
    let place = Place::with_base(b"");
    let image = Assets::find()?.debian;
    let more = ["--append", "loglevel=3", "--cpus", "2", "--memory", "512M"];
    let begun = Instant::now();
    let mut guest = Guest::of(mayfly(&image, &place.overlay_dir(), &more)?, System::Debian, None)?;
    guest.wait_for_shell(BOOT)?;
    let took = begun.elapsed();

    assert_eq!(ok(&mut guest, "findmnt -no SOURCE,FSTYPE /")?, "/dev/vda ext4");
    assert_eq!(ok(&mut guest, "systemctl --failed --no-legend")?, "");
    assert_eq!(ok(&mut guest, "systemd-detect-virt")?, "kvm");
    guest.poweroff(BOOT)?;
    Ok(format!("logged in after {took:.1?}"))
}
