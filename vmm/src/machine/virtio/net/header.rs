//! The header before each frame (virtio 1.2, 5.1.6): what a guest's may say to the host's kernel, and what ours says to a guest.
//!
//! The kernel checks a header itself; but it checks what its own tap may do, not what this guest's driver agreed to, and its
//! code for the rarer kinds has had more bugs than the rest. So only what was agreed passes.

use super::{CSUM, HOST_TSO4, HOST_TSO6};

/// Bytes of a header.
pub(super) const BYTES: usize = 12;

/// Flag: the checksum is to be completed.
const NEEDS_CSUM: u8 = 1;
/// No segment to cut.
const GSO_NONE: u8 = 0;
/// A TCP segment over IPv4.
const GSO_TCPV4: u8 = 1;
/// A TCP segment over IPv6.
const GSO_TCPV6: u8 = 4;

/// The header of every frame that a guest receives: nothing was left to it, one buffer.
pub(super) const RECEIVED: [u8; BYTES] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// A guest's header as the tap gets it, for a frame of `bytes` bytes after it; none if the frame must not go out.
pub(super) fn sent(header: [u8; BYTES], bytes: usize, acked: u64) -> Option<[u8; BYTES]> {
    let [flags, kind, l0, l1, s0, s1, c0, c1, o0, o1, ..] = header;
    let summed = flags & NEEDS_CSUM != 0;
    if summed {
        let at = usize::from(u16::from_le_bytes([c0, c1])).checked_add(usize::from(u16::from_le_bytes([o0, o1])))?;
        if acked & CSUM == 0 || at.checked_add(2)? > bytes {
            return None;
        }
    }
    let agreed = match kind {
        GSO_NONE => true,
        GSO_TCPV4 => acked & HOST_TSO4 != 0,
        GSO_TCPV6 => acked & HOST_TSO6 != 0,
        _ => false,
    };
    let cut = kind != GSO_NONE;
    if !agreed || cut && (!summed || [s0, s1] == [0, 0]) {
        return None;
    }
    // Fields of what is not asked for are zero, whatever the guest left there; so is num_buffers.
    let [c0, c1, o0, o1] = if summed { [c0, c1, o0, o1] } else { [0; 4] };
    let [l0, l1, s0, s1] = if cut { [l0, l1, s0, s1] } else { [0; 4] };
    Some([flags & NEEDS_CSUM, kind, l0, l1, s0, s1, c0, c1, o0, o1, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: u64 = CSUM | HOST_TSO4 | HOST_TSO6;
    /// A TCP segment over IPv4 to be cut into 1448 bytes each.
    const LARGE: [u8; BYTES] = [1, 1, 54, 0, 0xa8, 0x05, 34, 0, 16, 0, 0, 0];

    #[test]
    fn what_was_agreed_passes_as_it_is() {
        assert_eq!(sent(LARGE, 4000, ALL), Some(LARGE));
        assert_eq!(sent([0; BYTES], 60, 0), Some([0; BYTES]));
    }

    #[test]
    fn what_was_not_agreed_does_not_go_out() {
        assert_eq!(sent(LARGE, 4000, CSUM | HOST_TSO6), None);
        assert_eq!(sent(LARGE, 4000, HOST_TSO4), None);
        let [_, rest @ ..] = LARGE;
        let mut unsummed = [0; BYTES];
        unsummed[1..].copy_from_slice(&rest);
        assert_eq!(sent(unsummed, 4000, ALL), None, "to be cut, but without a checksum");
    }

    #[test]
    fn a_checksum_outside_of_the_frame_does_not_go_out() {
        assert!(sent(LARGE, 52, ALL).is_some());
        assert_eq!(sent(LARGE, 51, ALL), None);
    }

    proptest! {
        #[test]
        fn no_header_passes_with_more_than_was_agreed(
            header in prop::array::uniform12(any::<u8>()),
            bytes in 0_usize..70_000,
            acked in any::<u64>(),
        ) {
            if let Some(header) = sent(header, bytes, acked) {
                prop_assert!(header[0] == 0 || header[0] == NEEDS_CSUM && acked & CSUM != 0);
                prop_assert!(header[1] == 0 || acked & (HOST_TSO4 | HOST_TSO6) != 0);
                prop_assert_eq!(&header[10..], &[0, 0]);
            }
        }
    }
}
