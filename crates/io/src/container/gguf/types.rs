//! Upstream's ids of tensor types (`ggml.h`) and of metadata value types (`gguf.h`).

use crate::NumberType;

/// One of upstream's tensor types.
pub(super) struct TensorType {
    pub id: u32,
    pub name: &'static str,
    /// Number of values and number of bytes of a block. It is set only for types with which kvant does not compute.
    pub block: Option<(u64, u64)>,
}

macro_rules! types {
    ($($id:literal $name:literal $(($elements:literal, $bytes:literal))?),* $(,)?) => {
        &[$(TensorType { id: $id, name: $name, block: types!(@ $($elements, $bytes)?) }),*]
    };
    (@) => { None };
    (@ $elements:literal, $bytes:literal) => { Some(($elements, $bytes)) };
}

/// All tensor types of upstream. Types that kvant does not read are included, so that kvant can list them and name them
/// in errors.
const TENSOR_TYPES: &[TensorType] = types![
    0 "f32", 1 "f16", 2 "q4_0", 3 "q4_1", 6 "q5_0", 7 "q5_1", 8 "q8_0", 9 "q8_1" (32, 36), 10 "q2_k", 11 "q3_k",
    12 "q4_k", 13 "q5_k", 14 "q6_k", 15 "q8_k" (256, 292), 16 "iq2_xxs", 17 "iq2_xs", 18 "iq3_xxs", 19 "iq1_s",
    20 "iq4_nl", 21 "iq3_s", 22 "iq2_s", 23 "iq4_xs", 24 "i8" (1, 1), 25 "i16" (1, 2), 26 "i32" (1, 4),
    27 "i64" (1, 8), 28 "f64" (1, 8), 29 "iq1_m", 30 "bf16", 34 "tq1_0", 35 "tq2_0", 39 "mxfp4", 40 "nvfp4",
    41 "q1_0", 42 "q2_0",
];

/// The tensor type with this id; `None` for an unknown id.
pub(super) fn tensor_type(id: u32) -> Option<&'static TensorType> {
    TENSOR_TYPES.iter().find(|t| t.id == id)
}

/// Upstream's id of the type with this name; `None` for an unknown name.
pub(super) fn type_id(name: &str) -> Option<u32> {
    TENSOR_TYPES.iter().find(|t| t.name == name).map(|t| t.id)
}

/// The [`NumberType`] of the tensor type with this name; `None` for all other tensor types.
pub(super) fn number_type(name: &str) -> Option<NumberType> {
    match name {
        "f64" => Some(NumberType::F64),
        "i8" => Some(NumberType::I8),
        "i16" => Some(NumberType::I16),
        _ => None,
    }
}

// Ids of the types of metadata values.
pub(super) const U8: u32 = 0;
pub(super) const I8: u32 = 1;
pub(super) const U16: u32 = 2;
pub(super) const I16: u32 = 3;
pub(super) const U32: u32 = 4;
pub(super) const I32: u32 = 5;
pub(super) const F32: u32 = 6;
pub(super) const BOOL: u32 = 7;
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;
pub(super) const U64: u32 = 10;
pub(super) const I64: u32 = 11;
pub(super) const F64: u32 = 12;
