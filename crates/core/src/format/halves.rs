//! Packing of 32 four-bit codes into 16 bytes: byte `j` has code `j` in its low half and code `j + 16` in its high
//! half.

/// Packs 32 codes below 16.
#[inline(always)]
pub(super) fn pack(codes: &[u8], bytes: &mut [u8]) {
    for (j, byte) in bytes[..16].iter_mut().enumerate() {
        *byte = (codes[j] & 15) | (codes[j + 16] << 4);
    }
}

/// Unpacks 16 bytes.
#[inline(always)]
pub(super) fn unpack(bytes: &[u8], codes: &mut [u8]) {
    for (j, byte) in bytes[..16].iter().enumerate() {
        codes[j] = byte & 15;
        codes[j + 16] = byte >> 4;
    }
}

/// Sets the fifth bits of 32 codes. Bit `j` of the little-endian word belongs to code `j`.
#[inline(always)]
pub(super) fn unpack_fifth(word: [u8; 4], codes: &mut [u8]) {
    let word = u32::from_le_bytes(word);
    for (j, code) in codes[..32].iter_mut().enumerate() {
        *code |= ((word >> j) as u8 & 1) << 4;
    }
}

/// Packs the fifth bits of 32 codes; the inverse of [`unpack_fifth`].
#[inline(always)]
pub(super) fn pack_fifth(codes: &[u8]) -> [u8; 4] {
    codes[..32]
        .iter()
        .enumerate()
        .fold(0u32, |word, (j, code)| word | u32::from(code >> 4 & 1) << j)
        .to_le_bytes()
}

/// Unpacks 32 codes of four or five bits from the last bytes of a block. The fifth bits, if any, come first.
#[inline(always)]
pub(super) fn unpack_codes<const BITS: usize>(bytes: &[u8]) -> [u8; 32] {
    let mut codes = [0; 32];
    match BITS {
        4 => unpack(bytes, &mut codes),
        _ => {
            unpack(&bytes[4..], &mut codes);
            unpack_fifth(*super::array(&bytes[..4]), &mut codes);
        }
    }
    codes
}

/// The inverse of [`unpack_codes`].
#[inline(always)]
pub(super) fn pack_codes<const BITS: usize>(codes: &[u8], bytes: &mut [u8]) {
    match BITS {
        4 => pack(codes, bytes),
        _ => {
            pack(codes, &mut bytes[4..]);
            bytes[..4].copy_from_slice(&pack_fifth(codes));
        }
    }
}
