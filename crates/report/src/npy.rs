//! NumPy's format, version 1.0. Source: `numpy/lib/format.py`.

/// Returns the header of a file with a matrix of little-endian `f32`, row-major. The data follow the header.
pub fn npy_header(shape: [usize; 2]) -> Vec<u8> {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", shape[0], shape[1]);
    // Magic bytes, version and length take 10 bytes. The data must begin at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64);
    header.push_str(&" ".repeat(padded - 11 - header.len()));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_begin_at_a_multiple_of_64() {
        for shape in [[1, 1], [123_456, 151_936]] {
            let header = npy_header(shape);
            assert!(header.len().is_multiple_of(64) && header.ends_with(b"\n"));
            let length = u16::from_le_bytes([header[8], header[9]]);
            assert_eq!(header.len(), 10 + usize::from(length));
        }
    }
}
