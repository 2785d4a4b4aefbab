//! Number types that kvant reads but with which it does not compute. Each type is converted to a wider format with
//! which kvant computes.
//!
//! Values of 8 bits become `f16`, and 16-bit integers become `f32`. Both conversions are exact. `f64` becomes `f32` and
//! is rounded. Sources: the safetensors specification for the names; arXiv 2209.05433 for the two FP8 types. E4M3 has
//! no infinity and one NaN. An E5M2 value is the upper byte of an `f16`.

use half::f16;
use kvant_core::{Bytes, FormatRef, Shape, Tensor, format};

/// A number type that is not in the registry of formats (`kvant_core::format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberType {
    /// IEEE 754 binary64.
    F64,
    /// FP8 with 4 exponent bits and 3 mantissa bits.
    F8E4M3,
    /// FP8 with 5 exponent bits and 2 mantissa bits.
    F8E5M2,
    /// Signed 8-bit integers.
    I8,
    /// Unsigned 8-bit integers.
    U8,
    /// Signed 16-bit integers.
    I16,
    /// Unsigned 16-bit integers.
    U16,
}

impl NumberType {
    /// All number types.
    pub const ALL: [Self; 7] =
        [Self::F64, Self::F8E4M3, Self::F8E5M2, Self::I8, Self::U8, Self::I16, Self::U16];

    /// The name of the type in a safetensors file.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::I16 => "I16",
            Self::U16 => "U16",
        }
    }

    /// Size of one value in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
        }
    }

    /// True if this is one of the two FP8 types. A checkpoint may have a separate tensor of scales for FP8 weights.
    pub fn is_f8(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2)
    }

    /// The format of the tensor that [`NumberType::widen`] returns.
    pub fn widened(self) -> FormatRef {
        match self {
            Self::F64 | Self::I16 | Self::U16 => &format::F32,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 => &format::F16,
        }
    }

    /// Returns a copy of the values in `bytes` (row-major) as a tensor of the format [`NumberType::widened`].
    ///
    /// # Errors
    /// An error if the number of bytes does not match the shape.
    pub fn widen(self, shape: Shape, bytes: &[u8]) -> Result<Tensor, kvant_core::Error> {
        let eight = |value: &dyn Fn(u8) -> f16| -> Vec<u8> {
            let table: Vec<[u8; 2]> = (0..=255).map(|b| value(b).to_le_bytes()).collect();
            bytes.iter().flat_map(|&b| table[usize::from(b)]).collect()
        };
        let sixteen = |value: fn([u8; 2]) -> f32| -> Vec<u8> {
            bytes.as_chunks().0.iter().flat_map(|b| value(*b).to_le_bytes()).collect()
        };
        let widened = match self {
            Self::F64 => {
                let numbers = bytes.as_chunks().0.iter();
                numbers.flat_map(|b| (f64::from_le_bytes(*b) as f32).to_le_bytes()).collect()
            }
            Self::F8E4M3 => eight(&e4m3),
            Self::F8E5M2 => eight(&|b| f16::from_bits(u16::from(b) << 8)),
            Self::I8 => eight(&|b| f16::from_f32(f32::from(b as i8))),
            Self::U8 => eight(&|b| f16::from_f32(f32::from(b))),
            Self::I16 => sixteen(|b| f32::from(i16::from_le_bytes(b))),
            Self::U16 => sixteen(|b| f32::from(u16::from_le_bytes(b))),
        };
        Tensor::new(shape, self.widened(), Bytes::from(widened))
    }

    /// Index of the first value that [`NumberType::widen`] rounds; `None` if it rounds no value.
    pub fn first_rounded(self, bytes: &[u8]) -> Option<usize> {
        if self != Self::F64 {
            return None;
        }
        bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).position(|x| {
            let back = f64::from(x as f32);
            back != x && !x.is_nan()
        })
    }
}

/// Decodes an E4M3 value. It is NaN if all bits except the sign are set; there is no infinity. Subnormal values are
/// multiples of 2⁻⁹.
fn e4m3(bits: u8) -> f16 {
    let (exponent, mantissa) = (bits >> 3 & 0xf, bits & 0x7);
    let magnitude = match (exponent, mantissa) {
        (0xf, 0x7) => f32::NAN,
        (0, m) => f32::from(m) / 512.0,
        (e, m) => (1.0 + f32::from(m) / 8.0) * 2f32.powi(i32::from(e) - 7),
    };
    f16::from_f32(if bits & 0x80 == 0 { magnitude } else { -magnitude })
}

/// Multiplies a matrix in `f32` by scales. `block` is the size of a block in rows and columns, and each block has one
/// scale. A single scale applies to the whole matrix.
///
/// # Errors
/// Returns `None` if the number of scales is not the number of blocks.
pub(crate) fn scaled(tensor: &Tensor, scales: &Tensor, block: (usize, usize)) -> Option<Tensor> {
    let shape = *tensor.shape();
    let (rows, columns) = (shape.rows(), shape.columns());
    let (down, across) =
        if scales.shape().elements() == 1 { (rows, columns) } else { (block.0.max(1), block.1.max(1)) };
    let a_row = columns.div_ceil(across);
    if scales.shape().elements() != rows.div_ceil(down) * a_row {
        return None;
    }
    let scales = scales.decode();
    let (mut bytes, mut numbers) = (Vec::with_capacity(4 * rows * columns), vec![0.0; columns]);
    for row in 0..rows {
        tensor.format().decode(tensor.rows(row, 1), &mut numbers);
        for (part, scale) in numbers.chunks_mut(across).zip(&scales[row / down * a_row..]) {
            part.iter_mut().for_each(|x| *x *= scale);
        }
        numbers.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
    }
    Tensor::new(shape, &format::F32, Bytes::from(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widen(kind: NumberType, bytes: &[u8]) -> Vec<f32> {
        kind.widen(Shape::new(&[bytes.len() / kind.bytes()]).unwrap(), bytes).unwrap().decode()
    }

    /// Largest, smallest and special values of both FP8 types, from tables 1 and 2 of arXiv 2209.05433.
    #[test]
    fn eight_bits_are_what_the_paper_says() {
        let e4m3 = widen(NumberType::F8E4M3, &[0x7e, 0xfe, 0x08, 0x07, 0x01, 0x80, 0x38, 0x7f]);
        let expected = [448.0, -448.0, 2f32.powi(-6), 0.875 * 2f32.powi(-6), 2f32.powi(-9), -0.0, 1.0];
        assert_eq!(e4m3[..7], expected);
        assert!(e4m3[7].is_nan());
        let e5m2 = widen(NumberType::F8E5M2, &[0x7b, 0x04, 0x03, 0x01, 0x3c, 0x7c, 0xfc, 0x7d]);
        let expected = [57344.0, 2f32.powi(-14), 0.75 * 2f32.powi(-14), 2f32.powi(-16), 1.0];
        assert_eq!(e5m2[..5], expected);
        assert!(e5m2[5] == f32::INFINITY && e5m2[6] == f32::NEG_INFINITY && e5m2[7].is_nan());
        assert_eq!(widen(NumberType::I8, &[0x80, 0x7f]), [-128.0, 127.0]);
        assert_eq!(widen(NumberType::U8, &[0x80, 0xff]), [128.0, 255.0]);
        assert_eq!(widen(NumberType::I16, &[0x00, 0x80]), [-32768.0]);
        assert_eq!(widen(NumberType::F64, &0.1f64.to_le_bytes()), [0.1f32]);
        let pair = [0.5f64.to_le_bytes(), 0.1f64.to_le_bytes()].concat();
        assert_eq!(NumberType::F64.first_rounded(&pair), Some(1));
    }

    #[test]
    fn every_block_has_its_scale() {
        let matrix = NumberType::I8.widen(Shape::new(&[3, 5]).unwrap(), &[1; 15]).unwrap();
        let scales = |dimensions: &[usize], values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            Tensor::new(Shape::new(dimensions).unwrap(), &format::F32, Bytes::from(bytes)).unwrap()
        };
        let found = scaled(&matrix, &scales(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), (2, 3)).unwrap().decode();
        assert_eq!(found, [1., 1., 1., 2., 2., 1., 1., 1., 2., 2., 3., 3., 3., 4., 4.]);
        assert_eq!(scaled(&matrix, &scales(&[1], &[2.0]), (2, 3)).unwrap().decode(), [2.0; 15]);
        assert!(scaled(&matrix, &scales(&[3], &[1.0; 3]), (2, 3)).is_none());
    }
}
