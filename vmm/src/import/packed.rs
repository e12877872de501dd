//! Decompresses one cluster: raw deflate or zstd, into a buffer of exactly its size.

use super::header::Compression;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::fmt;
use std::io::Read;

/// The largest window that a zstd frame may want. QEMU's have 2 MiB, like its largest clusters; whoever compresses as hard as zstd
/// can without being told to take any memory it likes stays within this.
const ZSTD_WINDOW_MAX: u64 = 8 << 20;

/// Both decompressors, to be used again and again.
pub(super) struct Unpacker {
    deflate: Box<DecompressorOxide>,
    zstd: FrameDecoder,
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Unpacker")
    }
}

impl Unpacker {
    pub(super) fn new() -> Self {
        let mut zstd = FrameDecoder::new();
        zstd.set_max_window_size(ZSTD_WINDOW_MAX);
        Self {
            deflate: Box::default(),
            zstd,
        }
    }

    /// Fills `cluster` with what `packed` holds. Bytes that follow on the compressed data are nothing: its length is known in
    /// sectors only.
    ///
    /// # Errors
    /// It does not give a whole cluster: why, in words.
    pub(super) fn unpack(&mut self, how: Compression, packed: &[u8], cluster: &mut [u8]) -> Result<(), String> {
        match how {
            Compression::Deflate => {
                self.deflate.init();
                let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
                let (status, _, written) = decompress(&mut self.deflate, packed, cluster, 0, flags);
                let ended = matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput);
                if ended && written == cluster.len() {
                    Ok(())
                } else {
                    Err(format!("{status:?} after {written} bytes"))
                }
            }
            Compression::Zstd => {
                let decoder = StreamingDecoder::new_with_decoder(packed, &mut self.zstd);
                let mut decoder = decoder.map_err(|error| error.to_string())?;
                decoder.read_exact(cluster).map_err(|error| error.to_string())
            }
        }
    }
}
