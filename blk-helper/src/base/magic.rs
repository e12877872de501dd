//! Whether a base carries the mark of another format ([`protocol::formats`] has them).

use protocol::formats::{self, HEAD_BYTES};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The format `file` looks like, if any.
///
/// # Errors
/// When it cannot be read.
pub(super) fn recognise(file: &File) -> io::Result<Option<&'static str>> {
    let mut head = [0; HEAD_BYTES];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(filled).unwrap_or(u64::MAX))? {
            0 => break,
            read => filled = filled.saturating_add(read),
        }
    }
    Ok(formats::recognise(&head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_looked_at_as_far_as_it_goes() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"conectix", 0).unwrap();
        assert_eq!(recognise(&file).unwrap(), Some("a VHD image"));

        file.set_len(4).unwrap();
        assert_eq!(recognise(&file).unwrap(), None);
    }
}
