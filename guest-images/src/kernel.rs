//! The uncompressed ELF kernel inside a bzImage.
//!
//! A bzImage of the x86 boot protocol 2.8 or later names its compressed payload:
//!
//! ```text
//! 0x1f1 setup_sects   u8    real-mode sectors after the first (0 means 4)
//! 0x202 "HdrS"
//! 0x206 version       u16
//! 0x248 payload_offset u32  from the start of the protected-mode code
//! 0x24c payload_length u32  with the 4-byte size that the build appends
//! ```
//!
//! Debian 12's cloud kernel compresses it as an LZ4 *legacy* frame: the magic
//! number, then blocks of at most 8 MiB, each behind its compressed size.
//! Debian 13's does it with zstd. At the end (not part of either) there is the
//! uncompressed size.

use std::io::Read as _;

use crate::error::KernelError;

const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: u64 = 512;

const LZ4_LEGACY_MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
const ZSTD_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// Extracts the uncompressed ELF kernel (`vmlinux`) from a bzImage.
///
/// # Errors
///
/// When the image is truncated, is no bzImage, is compressed otherwise than
/// with LZ4 or zstd, or does not decompress to what it promises.
pub fn extract_vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, KernelError> {
    let payload = payload(bzimage)?;
    let (compressed, trailer) = payload
        .split_last_chunk::<4>()
        .ok_or(KernelError::Truncated {
            what: "the payload's size trailer",
            needed: 4,
            len: payload.len() as u64,
        })?;
    let expected = u64::from(u32::from_le_bytes(*trailer));
    let vmlinux = decompress(compressed)?;
    if vmlinux.len() as u64 != expected {
        return Err(KernelError::Size {
            got: vmlinux.len() as u64,
            expected,
        });
    }
    if !vmlinux.starts_with(b"\x7fELF") {
        return Err(KernelError::NotElf);
    }
    Ok(vmlinux)
}

/// The payload that the setup header names, with its size trailer.
fn payload(bzimage: &[u8]) -> Result<&[u8], KernelError> {
    let header: &[u8; PAYLOAD_LENGTH + 4] =
        bzimage.first_chunk().ok_or(KernelError::Truncated {
            what: "the setup header",
            needed: PAYLOAD_LENGTH as u64 + 4,
            len: bzimage.len() as u64,
        })?;
    if &header[HEADER_MAGIC..HEADER_MAGIC + 4] != b"HdrS" {
        return Err(KernelError::NotBzImage);
    }
    let (minor, major) = (header[VERSION], header[VERSION + 1]);
    if (major, minor) < (2, 8) {
        return Err(KernelError::OldProtocol { major, minor });
    }
    let setup_sects = match header[SETUP_SECTS] {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let start = (setup_sects + 1) * SECTOR + u64::from(u32_at(header, PAYLOAD_OFFSET));
    let end = start + u64::from(u32_at(header, PAYLOAD_LENGTH));
    usize::try_from(start)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(start, end)| bzimage.get(start..end))
        .ok_or(KernelError::Truncated {
            what: "the compressed kernel",
            needed: end,
            len: bzimage.len() as u64,
        })
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([
        bytes[offset],
        bytes[offset + 1],
        bytes[offset + 2],
        bytes[offset + 3],
    ])
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    let Some((magic, blocks)) = payload.split_first_chunk::<4>() else {
        return Err(KernelError::Truncated {
            what: "the payload's magic number",
            needed: 4,
            len: payload.len() as u64,
        });
    };
    match *magic {
        LZ4_LEGACY_MAGIC => decompress_legacy_blocks(blocks),
        ZSTD_MAGIC => decompress_zstd(payload),
        magic => Err(KernelError::Compression { magic }),
    }
}

fn decompress_zstd(frame: &[u8]) -> Result<Vec<u8>, KernelError> {
    let corrupt = |reason: String| KernelError::Corrupt { reason };
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(frame)
        .map_err(|error| corrupt(error.to_string()))?;
    let mut output = Vec::new();
    decoder
        .read_to_end(&mut output)
        .map_err(|error| corrupt(error.to_string()))?;
    Ok(output)
}

fn decompress_legacy_blocks(mut rest: &[u8]) -> Result<Vec<u8>, KernelError> {
    let mut output = Vec::new();
    let mut buffer = vec![0; LZ4_LEGACY_BLOCK];
    for block in 0.. {
        let Some((size, after)) = rest.split_first_chunk::<4>() else {
            break;
        };
        let size = u32::from_le_bytes(*size) as usize;
        let data = after.get(..size).ok_or_else(|| KernelError::Corrupt {
            reason: format!(
                "block {block} should have {size} bytes, {} are left",
                after.len()
            ),
        })?;
        let length = lz4_flex::block::decompress_into(data, &mut buffer).map_err(|error| {
            KernelError::Corrupt {
                reason: format!("block {block}: {error}"),
            }
        })?;
        output.extend_from_slice(&buffer[..length]);
        rest = &after[size..];
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bzImage with `kernel` as its payload, in blocks of `block` bytes.
    fn bzimage(kernel: &[u8], block: usize) -> Vec<u8> {
        let mut payload = LZ4_LEGACY_MAGIC.to_vec();
        for chunk in kernel.chunks(block) {
            let data = lz4_flex::block::compress(chunk);
            payload.extend_from_slice(&(data.len() as u32).to_le_bytes());
            payload.extend_from_slice(&data);
        }
        bzimage_of(payload, kernel.len())
    }

    /// A bzImage with a compressed payload, of a kernel of so many bytes.
    fn bzimage_of(mut payload: Vec<u8>, bytes: usize) -> Vec<u8> {
        payload.extend_from_slice(&(bytes as u32).to_le_bytes());
        let mut image = vec![0; 2 * SECTOR as usize + 16];
        image[SETUP_SECTS] = 1;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&[15, 2]);
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4]
            .copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(&payload);
        image
    }

    fn kernel() -> Vec<u8> {
        let mut kernel = b"\x7fELF".to_vec();
        kernel.extend((0..50_000_u32).flat_map(|n| (n / 7).to_le_bytes()));
        kernel
    }

    #[test]
    fn the_kernel_comes_out_as_it_went_in() {
        for block in [1000, 65_536, LZ4_LEGACY_BLOCK] {
            assert_eq!(extract_vmlinux(&bzimage(&kernel(), block)), Ok(kernel()));
        }
    }

    #[test]
    fn a_kernel_compressed_with_zstd_comes_out_too() {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let payload = ruzstd::encoding::compress_to_vec(&kernel()[..], level);
        let image = bzimage_of(payload, kernel().len());
        assert_eq!(extract_vmlinux(&image), Ok(kernel()));
        let payload = image.len() - 8;
        for at in (2 * SECTOR as usize + 20..payload).step_by(499) {
            let mut broken = image.clone();
            broken[at] ^= 0x55;
            // It may give another kernel of the same size; it does not panic.
            let _ = extract_vmlinux(&broken);
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let image = bzimage(&kernel(), 4096);
        for length in (0..image.len()).step_by(97) {
            assert!(
                matches!(
                    extract_vmlinux(&image[..length]),
                    Err(KernelError::Truncated { .. })
                ),
                "cut at {length}"
            );
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(extract_vmlinux(&[0; 4096]), Err(KernelError::NotBzImage));

        let mut old = bzimage(&kernel(), 4096);
        old[VERSION] = 7;
        assert_eq!(
            extract_vmlinux(&old),
            Err(KernelError::OldProtocol { major: 2, minor: 7 })
        );

        let mut gzip = bzimage(&kernel(), 4096);
        let payload = 2 * SECTOR as usize + 16;
        gzip[payload..payload + 4].copy_from_slice(&[0x1f, 0x8b, 8, 0]);
        assert_eq!(
            extract_vmlinux(&gzip),
            Err(KernelError::Compression {
                magic: [0x1f, 0x8b, 8, 0]
            })
        );

        assert_eq!(
            extract_vmlinux(&bzimage(b"not an ELF file", 8)),
            Err(KernelError::NotElf)
        );
    }

    #[test]
    fn a_wrong_size_is_noticed() {
        let mut image = bzimage(&kernel(), 4096);
        let trailer = image.len() - 4;
        image[trailer] ^= 1;
        assert!(matches!(
            extract_vmlinux(&image),
            Err(KernelError::Size { .. })
        ));
    }

    proptest! {
        #[test]
        fn corrupt_payloads_never_panic(at in 0_usize..20_000, bits in 1_u8..) {
            let mut image = bzimage(&kernel(), 4096);
            let at = at % image.len();
            image[at] ^= bits;
            let _ = extract_vmlinux(&image);
        }
    }
}
