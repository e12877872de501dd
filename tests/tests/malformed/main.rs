//! What a hostile guest may put into a ring: each chain gets its answer, and the next good request works.
//!
//! A malformed chain is answered with an error status where its last byte is writable (used length 1), and with used
//! length 0 where not. A chain that has no end (cut, or a loop) may get either: nobody can say where its last byte is.

mod chains;
mod requests;
mod tricks;

use tests::helper::Helper;
use tests::place::Place;
use tests::raw::{Desc, IOERR, RawDisk, SMALL, UNTOUCHED, request_header};

const HEADER: u64 = SMALL;
const STATUS: u64 = SMALL + 0x100;
/// Far behind the end of guest memory.
const NOWHERE: u64 = 1 << 40;

const SECTORS: u64 = 2048;

/// What an answer may be, as (status byte, used length).
const WITH_ERROR: (u8, u32) = (IOERR, 1);
const WITHOUT_STATUS: (u8, u32) = (UNTOUCHED, 0);

fn start(place: &Place) -> (Helper, RawDisk) {
    let helper = place.helper().start();
    let disk = RawDisk::start(helper.socket(), 2, 64);
    (helper, disk)
}

fn disk_place() -> Place {
    Place::with_noise(usize::try_from(SECTORS * 512).unwrap_or(0), 1)
}

/// Runs a chain for request `kind` at `sector` with the descriptors as given, and checks that an honest one works after.
fn answer(disk: &mut RawDisk, kind: u32, sector: u64, table: &[Desc]) -> (u8, u32) {
    disk.memory.write(HEADER, &request_header(kind, sector));
    disk.memory.write(STATUS, &[UNTOUCHED]);
    let used = disk.run(table);
    let answer = (disk.memory.byte(STATUS), used.len);
    disk.assert_serves();
    answer
}

fn header() -> Desc {
    Desc::readable(HEADER, 16)
}

fn status() -> Desc {
    Desc::writable(STATUS, 1)
}
