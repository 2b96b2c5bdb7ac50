//! gzip (RFC 1952) with one way to read it: exactly one member, a plain header, nothing behind it.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::Refusal;

const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const FLAG_TEXT: u8 = 1;
const FLAG_NAME: u8 = 8;
/// Longest original file name in a header.
const MAX_NAME: usize = 255;
/// CRC-32 and length.
const TRAILER: usize = 8;
const LEVEL: u8 = 9;

/// Unpacks one member of at most `max` bytes.
///
/// The original file name, which `gzip` without `-n` writes, is skipped; an extra field, a comment and a header
/// checksum are refused, since only something that hides bytes would write them.
pub(super) fn unpack(bytes: &[u8], max: usize) -> Result<Vec<u8>, Refusal> {
    let (data, rest) = inflate(skip_header(bytes)?, max)?;
    let Some((trailer, tail)) = rest.split_first_chunk::<TRAILER>() else {
        return Err(Refusal::Gzip("cut short in the trailer"));
    };
    let [c0, c1, c2, c3, l0, l1, l2, l3] = *trailer;
    if u32::from_le_bytes([c0, c1, c2, c3]) != crc32(&data) {
        return Err(Refusal::Gzip("the CRC-32 does not fit the content"));
    }
    // `max` is far below 4 GiB, so the length modulo 2^32 is the length.
    if u32::try_from(data.len()) != Ok(u32::from_le_bytes([l0, l1, l2, l3])) {
        return Err(Refusal::Gzip("the length does not fit the content"));
    }
    if tail.is_empty() { Ok(data) } else { Err(Refusal::Trailing(tail.len())) }
}

/// Packs `bytes`: no time, no name, operating system unknown; the same input gives the same bytes.
pub(super) fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC);
    // Flags, time (4), extra flags (2: slowest algorithm, which is what level 9 is), system (255: unknown).
    out.extend_from_slice(&[0, 0, 0, 0, 0, 2, 255]);
    out.extend_from_slice(&compress_to_vec(bytes, LEVEL));
    out.extend_from_slice(&crc32(bytes).to_le_bytes());
    // RFC 1952: the length modulo 2^32.
    let len = u32::try_from(bytes.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out
}

fn skip_header(bytes: &[u8]) -> Result<&[u8], Refusal> {
    let Some(([m0, m1, method, flags, _time0, _time1, _time2, _time3, _extra, _system], rest)) =
        bytes.split_first_chunk::<10>()
    else {
        return Err(Refusal::Gzip("too short for a header"));
    };
    if [*m0, *m1, *method] != MAGIC {
        return Err(Refusal::Gzip("it does not start with 1f 8b 08"));
    }
    if flags & !(FLAG_TEXT | FLAG_NAME) != 0 {
        return Err(Refusal::Gzip(
            "the header has an extra field, a comment, a checksum or reserved flags; use `gzip -n`",
        ));
    }
    if flags & FLAG_NAME == 0 {
        return Ok(rest);
    }
    let end = rest.iter().take(MAX_NAME + 1).position(|b| *b == 0);
    end.and_then(|end| rest.get(end + 1..)).ok_or(Refusal::Gzip("the file name in the header does not end"))
}

/// Inflates a deflate stream; gives the data and what follows the stream. The buffer grows with what comes
/// out, never past the limit.
fn inflate(bytes: &[u8], max: usize) -> Result<(Vec<u8>, &[u8]), Refusal> {
    // One byte more than allowed tells a stream that ends at the limit from one that goes on.
    let ceiling = max.saturating_add(1);
    let mut state = Box::<DecompressorOxide>::default();
    let mut input = bytes;
    let mut out = vec![0; ceiling.min(bytes.len().saturating_mul(4).max(16 * 1024))];
    let mut len = 0_usize;
    loop {
        let (status, read, written) =
            decompress(&mut state, input, &mut out, len, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
        input = input.get(read..).unwrap_or_default();
        len = len.saturating_add(written);
        if len > max {
            return Err(Refusal::Bomb { max });
        }
        if status == TINFLStatus::Done {
            out.truncate(len);
            return Ok((out, input));
        }
        if status != TINFLStatus::HasMoreOutput {
            return Err(Refusal::Gzip("the compressed data is damaged or cut short"));
        }
        let grown = out.len().saturating_mul(2).min(ceiling);
        if grown == out.len() {
            return Err(Refusal::Bomb { max });
        }
        out.resize(grown, 0);
    }
}

/// CRC-32 as of RFC 1952 section 8 (reflected polynomial 0xedb88320).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = core::array::from_fn(|n| {
        (0..8).fold(u32::try_from(n).unwrap_or(0), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
    });
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        table.get(usize::from(low ^ byte)).copied().unwrap_or(0) ^ (crc >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1 << 16;

    /// What `printf hello | gzip -n` writes.
    const HELLO: [u8; 25] =
        [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0, 0, 0];

    #[test]
    fn the_check_value_of_crc_32_holds() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn output_of_gzip_is_read_with_and_without_a_name() {
        assert_eq!(unpack(&HELLO, MAX).unwrap(), b"hello");
        let mut named = HELLO.to_vec();
        named[3] = FLAG_NAME;
        named.splice(10..10, *b"bundle.tar\0");
        assert_eq!(unpack(&named, MAX).unwrap(), b"hello");
        let mut endless = HELLO.to_vec();
        endless[3] = FLAG_NAME;
        endless.splice(10..10, std::iter::repeat_n(b'a', 256).chain([0]));
        assert_eq!(unpack(&endless, MAX), Err(Refusal::Gzip("the file name in the header does not end")));
    }

    #[test]
    fn f07_a_bomb_is_stopped_at_the_limit() {
        let packed = pack(&vec![0; 1 << 20]);
        assert!(packed.len() < 4096);
        assert_eq!(unpack(&packed, 1 << 20).unwrap().len(), 1 << 20);
        for max in [0, 1, 1000, (1 << 20) - 1] {
            assert_eq!(unpack(&packed, max), Err(Refusal::Bomb { max }));
        }
    }

    #[test]
    fn f08_members_and_bytes_behind_the_first_are_refused() {
        let twice = [HELLO, HELLO].concat();
        assert_eq!(unpack(&twice, MAX), Err(Refusal::Trailing(25)));
        let mut tail = HELLO.to_vec();
        tail.push(0);
        assert_eq!(unpack(&tail, MAX), Err(Refusal::Trailing(1)));
    }

    #[test]
    fn f08_every_truncation_is_refused() {
        for len in 0..HELLO.len() {
            assert!(matches!(unpack(&HELLO[..len], MAX), Err(Refusal::Gzip(_))), "{len}");
        }
    }

    #[test]
    fn hidden_header_fields_other_methods_and_wrong_trailers_are_refused() {
        for (at, byte) in
            [(0, 0), (1, 0), (2, 7), (3, 2), (3, 4), (3, 16), (3, 32), (3, 64), (3, 128), (17, 0), (21, 6)]
        {
            let mut bytes = HELLO;
            bytes[at] = byte;
            let refusal = unpack(&bytes, MAX).unwrap_err();
            assert!(matches!(refusal, Refusal::Gzip(_)), "{at}: {}", refusal);
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks_equal(data in prop::collection::vec(0_u8..4, 0..5000)) {
            let packed = pack(&data);
            prop_assert_eq!(unpack(&packed, data.len()).unwrap(), data);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = unpack(&data, MAX);
            let mut headed = HELLO[..10].to_vec();
            headed.extend_from_slice(&data);
            if let Ok(out) = unpack(&headed, MAX) {
                prop_assert_eq!(&crc32(&out).to_le_bytes()[..], &headed[headed.len() - 8..headed.len() - 4]);
            }
        }
    }
}
