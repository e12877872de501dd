//! Saving: a thread of its own writes the disk, as it was at the moment of the request, into a file that the operator opened.
//!
//! The control thread takes the moment and leaves an order; from then on neither it nor any guest waits for the copy. The thread
//! is started with the others, proves what confines it as they do, and sleeps until there is an order. It also gives back what a
//! reset leaves behind.
//!
//! A save ends in one of three ways, and is told only then: done (the output is whole, and on the medium), called off or failed
//! (the output is empty, as far as its file system allows). Whatever the end, the overlay is then as if there had been none.

mod desk;
mod output;
mod qcow2;
mod raw;

use crate::bell::{Bell, Sleep};
use crate::disk::{Disk, Medium};
use crate::events::Events;
use crate::overlay::{Frozen, FrozenRun, Overlay, Scratch};
use crate::staff::{Member, StaffError, Task};
use log::{info, warn};
use policy::logging::chain;
use protocol::control::{Event, SaveFormat, SaveRequest, SaveState, SaveStatus};
use protocol::units::ByteRange;
use std::convert::Infallible;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use thiserror::Error;

use desk::{Desk, Format, Order};
pub(crate) use output::{Output, OutputError};

/// Why a save is not begun. Nothing has changed then.
#[derive(Debug, Error)]
pub(crate) enum SaveRefusal {
    #[error("busy: a save is running")]
    Busy,
    #[error("the output is missing")]
    NoOutput,
    #[error("the disk is read-only: what it holds is the base")]
    ReadOnly,
    #[error("the output cannot be used")]
    Output(#[source] OutputError),
    #[error("a qcow2 file needs the name of the base, as its reader will open it, of 1 to 1023 bytes")]
    Name,
    #[error("a raw image has no backing file")]
    NoName,
    #[error("a disk of more than 8 TiB does not fit into a qcow2 file with small clusters; save it as raw")]
    TooLarge,
}

/// Why a save failed.
#[derive(Debug, Error)]
enum SaveError {
    #[error("cannot write the output")]
    Write(#[source] io::Error),
    #[error("cannot bring the output onto its medium")]
    Sync(#[source] io::Error),
    #[error("cannot look at the output")]
    Look(#[source] io::Error),
    #[error(
        "the output has {found} bytes instead of {expected}: somebody else wrote to it, or had it append (O_APPEND)"
    )]
    Length { found: u64, expected: u64 },
    #[error("cannot read the disk")]
    Read(#[source] io::Error),
    #[error("cannot look at the base")]
    LookAtBase(#[source] io::Error),
    #[error("the base is shorter than it was at the start")]
    BaseShrank,
    #[error("called off")]
    Cancelled,
}

/// What takes the runs of a disk, in order.
trait Sink {
    /// Whether it needs the bytes of this run.
    fn wants(&mut self, run: &FrozenRun) -> bool;
    /// Takes a run with its bytes.
    fn take(&mut self, run: &FrozenRun, content: &mut [u8]) -> Result<(), SaveError>;
    /// Takes a run without them.
    fn pass(&mut self, run: &FrozenRun) -> Result<(), SaveError>;
    /// There are no more. Says how long the file must be.
    fn finish(&mut self) -> Result<u64, SaveError>;
}

/// The saver, as the control thread knows it.
#[derive(Debug)]
pub(crate) struct Saver {
    desk: Arc<Desk>,
    member: Member,
    output: [RawFd; 2],
}

impl Saver {
    /// Starts the thread, which `bell` wakes, which reads with the scratch and writes to the output, and which tells of each end.
    ///
    /// # Errors
    /// [`StaffError`].
    pub(crate) fn start(
        disk: Arc<Disk>,
        (scratch, output): (Scratch, Output),
        bell: Arc<Bell>,
        events: Arc<Events>,
    ) -> Result<Self, StaffError> {
        let desk = Arc::new(Desk::new(Arc::clone(&bell), events));
        let numbers = output.numbers();
        let saving = Saving {
            desk: Arc::clone(&desk),
            disk,
            scratch,
            output,
        };
        Ok(Self {
            desk,
            member: Member::start(NAME.to_owned(), bell, saving)?,
            output: numbers,
        })
    }

    /// The thread.
    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    /// The number that outputs get, and that of what keeps it.
    pub(crate) fn output(&self) -> [RawFd; 2] {
        self.output
    }

    /// Saves the disk as it is now. Returns the save's number when that moment is taken.
    ///
    /// # Errors
    /// [`SaveRefusal`].
    pub(crate) fn save(&self, overlay: &Overlay, request: SaveRequest, sent: OwnedFd) -> Result<u64, SaveRefusal> {
        if self.is_running() {
            return Err(SaveRefusal::Busy);
        }
        let total_bytes = overlay.capacity().bytes();
        let format = match (request.format, request.backing) {
            (SaveFormat::Raw, None) => Format::Raw,
            (SaveFormat::Raw, Some(_)) => return Err(SaveRefusal::NoName),
            (SaveFormat::Qcow2Delta, backing) => {
                let backing = backing.ok_or(SaveRefusal::Name)?;
                qcow2::check(&backing, total_bytes)?;
                Format::Delta { backing }
            }
        };
        output::check(&sent, overlay.base().status(), &overlay.files()).map_err(SaveRefusal::Output)?;

        let begun = Instant::now();
        if !overlay.freeze() {
            return Err(SaveRefusal::Busy);
        }
        let pause_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut papers = self.desk.papers();
        self.desk.called_off.store(false, Ordering::Relaxed);
        self.desk.done.store(0, Ordering::Relaxed);
        papers.order = Some(Order { sent, format });
        papers.settled = false;
        papers.previous = papers.save.take();
        let number = papers.previous.as_ref().map_or(0, |save| save.number) + 1;
        papers.save = Some(SaveStatus {
            number,
            state: SaveState::Running,
            done_bytes: 0,
            total_bytes,
            pause_us,
        });
        drop(papers);
        self.desk.bell.ring();
        Ok(number)
    }

    /// Calls the save off, if there is one and it is not too late: it then ends soon, and not as done.
    pub(crate) fn call_off(&self) -> bool {
        self.desk.call_off()
    }

    /// How the save is, or how the last one was, and the one before.
    pub(crate) fn status(&self) -> (Option<SaveStatus>, Option<SaveStatus>) {
        let papers = self.desk.papers();
        let mut save = papers.save.clone();
        if let Some(save) = save.as_mut().filter(|save| save.state == SaveState::Running) {
            save.done_bytes = self.desk.done.load(Ordering::Relaxed);
        }
        (save, papers.previous.clone())
    }

    /// Whether there is one.
    pub(crate) fn is_running(&self) -> bool {
        self.desk.papers().is_running()
    }

    /// Gives back what a reset left behind.
    pub(crate) fn give_back(&self) {
        self.desk.papers().leftover = true;
        self.desk.bell.ring();
    }
}

/// What the thread is called.
const NAME: &str = "blk-saver";

/// What the thread has.
struct Saving {
    desk: Arc<Desk>,
    disk: Arc<Disk>,
    scratch: Scratch,
    output: Output,
}

impl Task for Saving {
    fn run(mut self, bell: &Bell) -> nix::Result<Infallible> {
        loop {
            bell.wait(Sleep::Endless, |_| {})?;
            let (order, leftover) = {
                let mut papers = self.desk.papers();
                (papers.order.take(), std::mem::take(&mut papers.leftover))
            };
            let disk = Arc::clone(&self.disk);
            let Medium::Burning(overlay) = disk.medium() else {
                continue;
            };
            if leftover {
                overlay.give_back_leftover();
            }
            if let Some(order) = order {
                let outcome = self.carry_out(overlay, order);
                self.tell(overlay, outcome);
            }
        }
    }
}

impl Saving {
    /// From an order to its end.
    fn carry_out(&mut self, overlay: &Overlay, order: Order) -> Result<(), SaveError> {
        let Order { sent, format } = order;
        let occupied = self.output.occupy(sent).map_err(SaveError::Write);
        let copied = occupied.and_then(|()| match &format {
            Format::Raw => {
                let bytes = overlay.capacity().bytes();
                raw::RawImage::begin(&self.output, overlay.base(), bytes)
                    .and_then(|mut image| copy(overlay, &self.desk, &mut image, &mut self.scratch))
            }
            Format::Delta { backing } => {
                let bytes = overlay.capacity().bytes();
                let mut delta = qcow2::Delta::begin(&self.output, backing, bytes);
                copy(overlay, &self.desk, &mut delta, &mut self.scratch)
            }
        });
        // Guests get their space back before a medium is waited for.
        if overlay.is_frozen() {
            overlay.frozen_pieces().for_each(|piece| overlay.thaw(piece));
            overlay.thawed();
        }
        let synced = copied.and_then(|expected| {
            self.output.sync().map_err(SaveError::Sync)?;
            self.check_length(expected)
        });
        let saved = if self.desk.settle() {
            Err(SaveError::Cancelled)
        } else {
            synced
        };
        if saved.is_err() {
            // What is there is not what was asked for. A file system that fails may refuse this as well.
            let _ = self.output.set_length(0);
        }
        self.output.vacate();
        saved
    }

    /// Makes sure that what was written came where it belongs, as far as the file's length shows it: whoever shares the open file
    /// with us can have all our writes appended.
    fn check_length(&self, expected: u64) -> Result<(), SaveError> {
        let found = self.output.length().map_err(SaveError::Look)?;
        if found == expected {
            Ok(())
        } else {
            Err(SaveError::Length { found, expected })
        }
    }

    fn tell(&self, overlay: &Overlay, outcome: Result<(), SaveError>) {
        debug_assert!(!overlay.is_frozen(), "a save that ended leaves nothing frozen");
        let mut papers = self.desk.papers();
        let Some(status) = &mut papers.save else {
            return;
        };
        let number = status.number;
        let (state, event) = match outcome {
            Ok(()) => {
                info!("save {number} is done");
                (SaveState::Done, Event::Saved { number })
            }
            Err(SaveError::Cancelled) => {
                info!("save {number} was called off");
                (SaveState::Cancelled, Event::SaveCancelled { number })
            }
            Err(error) => {
                let reason = chain(&error);
                warn!("save {number} failed: {reason}");
                (SaveState::Failed(reason.clone()), Event::SaveFailed { number, reason })
            }
        };
        status.done_bytes = self.desk.done.load(Ordering::Relaxed);
        status.state = state;
        drop(papers);
        self.desk.events.emit(event);
    }
}

/// Brings the frozen disk into `sink`, thawing behind itself; says how long the file must be.
fn copy(overlay: &Overlay, desk: &Desk, sink: &mut impl Sink, scratch: &mut Scratch) -> Result<u64, SaveError> {
    let mut runs = Vec::new();
    for piece in overlay.frozen_pieces() {
        copy_piece(overlay, desk, piece, (sink, scratch), &mut runs)?;
        overlay.thaw(piece);
        desk.done.fetch_add(piece.len(), Ordering::Relaxed);
    }
    overlay.thawed();
    let length = sink.finish()?;
    match overlay.base().is_whole() {
        Ok(true) => Ok(length),
        Ok(false) => Err(SaveError::BaseShrank),
        Err(errno) => Err(SaveError::LookAtBase(errno.into())),
    }
}

fn copy_piece(
    overlay: &Overlay,
    desk: &Desk,
    piece: ByteRange,
    (sink, scratch): (&mut impl Sink, &mut Scratch),
    runs: &mut Vec<FrozenRun>,
) -> Result<(), SaveError> {
    overlay.frozen_runs(piece, runs);
    for run in &*runs {
        if desk.called_off.load(Ordering::Relaxed) {
            return Err(SaveError::Cancelled);
        }
        if sink.wants(run) {
            debug_assert!(run.holds != Frozen::Zero, "zeros need not be read");
            let content = overlay.read_frozen(run, scratch).map_err(SaveError::Read)?;
            let taken = sink.take(run, content);
            // This memory can be swapped out: what is saved need not stay here.
            content.fill(0);
            taken?;
        } else {
            sink.pass(run)?;
        }
    }
    Ok(())
}
