//! Unpacking of 256 two-bit codes from 64 bytes. For each 128 codes there are 32 bytes: byte `j` has, from bit 0 up,
//! the codes `j`, `j + 32`, `j + 64` and `j + 96`.

/// Unpacks 64 bytes.
#[inline(always)]
pub(super) fn unpack(bytes: &[u8]) -> [u8; 256] {
    let mut codes = [0; 256];
    for (codes, bytes) in codes.as_chunks_mut::<128>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        for (quarter, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = byte >> (2 * quarter) & 3;
            }
        }
    }
    codes
}
