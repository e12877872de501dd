//! Storage that fails, or does things by halves, below real confined programs: what is spoilt is single system calls.

mod append;
mod base;
mod commit;
mod data_path;
mod each;
mod held;
mod import;
mod save;
mod single;

use tests::faults::Call;
use tests::helper::Helper;

use each::{End, Row};

/// Why something cannot fail here.
const OURS: &str = "the place is ours to use";

/// What a save needs of a helper's files, all of which may be interrupted.
const SAVING: [Call; 5] = [
    Call::Preadv2,
    Call::Pwrite,
    Call::Ftruncate,
    Call::Fallocate,
    Call::Fsync,
];

/// All that a helper calls for a save, as a raw image or as a delta, and what becomes of the save when that fails.
fn in_a_save(helper: &Helper, is_raw: bool) -> Vec<Row> {
    let [base, overlay, out] = ["base", "overlay", "place of a save's output"].map(|what| helper.descriptors(what));
    let mut rows = vec![
        Row::always(Call::Preadv2, End::Failed).on(&overlay),
        Row::always(Call::Pwrite, End::Failed).on(&out),
        Row::always(Call::Ftruncate, End::Failed).on(&out),
        Row::always(Call::Fsync, End::Failed).on(&out),
    ];
    if is_raw {
        rows.extend([
            // Where the output shares the base's blocks, it is the first of these, and where not, the others.
            Row::if_any(Call::Fallocate, End::Failed).on(&out),
            Row::if_any(Call::Preadv2, End::Failed).on(&base),
            // Holes that are not known of are read, and found to be zeros.
            Row::if_any(Call::Lseek, End::Done).on(&base),
        ]);
    }
    rows
}
