//! `make demo-shell`: a guest on a burning disk, with its console on this terminal.

use std::time::Duration;

use tests::guest::{Spec, System};

use crate::failure::Failure;
use crate::helper::Helper;
use crate::space::{self, MIB, human, most_of};
use crate::stage::Stage;
use crate::workshop::Workshop;

/// How long the helper may take to end once told to.
const END: Duration = Duration::from_secs(10);

/// Runs the guest until it is switched off, then says what burnt. Returns whether the helper ended as it should.
pub(crate) fn run(workshop: &Workshop) -> Result<bool, Failure> {
    let mut stage = Stage::new();
    let dir = workshop.overlay_dir();
    let mut helper = Helper::start(workshop, &[])?;
    stage.step("A Debian guest on a disk that burns");
    stage.say(&format!(
        "blk-helper (pid {}) serves {} and keeps what the guest writes in a nameless file in {}. You will be root in \
         the guest; ruin what you like: nothing is kept. {}",
        helper.pid(),
        workshop.base().display(),
        dir.display(),
        if helper.encrypts()? {
            ""
        } else {
            "(The overlay is not encrypted yet.)"
        }
    ));
    stage.gap();
    stage.say(&format!(
        "All keys go to the guest, Ctrl-C too. Type 'poweroff' to end, or 'kill {}' on another terminal. Debian needs \
         some seconds to boot.",
        std::process::id()
    ));
    stage.gap();
    let spec = Spec::new(System::Debian)
        .map_err(Failure::Guest)?
        .vhost_user_disk(&workshop.socket(), 2);
    let ended = spec
        .on_this_terminal()
        .status()
        .map_err(Failure::while_doing("start QEMU"))?;
    // The helper outlives the guest here, so that there is time to measure.
    let (held, before) = (helper.overlay_bytes(), space::free(&dir)?);
    helper.terminate()?;
    let helper_ended = helper.wait(END)?;
    let enough = most_of(held.unwrap_or(0));
    let freed = space::settle(&dir, |now| now.saturating_sub(before) >= enough)?.saturating_sub(before);
    stage.step("Burnt");
    let clean = stage.check(ended.success(), &format!("QEMU ended: {ended}"))
        & stage.check(
            helper_ended.status.success(),
            &format!("blk-helper ended: {}", helper_ended.how()),
        );
    stage.show(helper_ended.last_words());
    stage.say(&match held {
        Some(held) => format!(
            "{} that the guest wrote are gone; df has {} MiB more than a moment ago.",
            human(held),
            freed / MIB
        ),
        None => format!(
            "What the guest wrote is gone: df has {} MiB more than a moment ago.",
            freed / MIB
        ),
    });
    stage.gap();
    Ok(clean)
}
