//! Multiplies integer codes with AVX-512 VNNI. The generic kernels are in `generic/int8_dot.rs`.

use super::simd::Sixteen;
use crate::cpu::codes::activations::{Activations, Row};
use crate::cpu::codes::layout::ROWS;
use crate::cpu::codes::matrix::{CodeMatrix, Sums};
use crate::cpu::codes::outliers::OutliersOfRows;
use crate::cpu::codes::packed_activations::{self, PackedChunk};
use crate::cpu::generic::activation_rows::multiply_groups;
use crate::cpu::generic::int8_dot::code_kernels;
use crate::cpu::generic::simd::SimdInt8;
use crate::cpu::generic::{self, int8_dot};
use crate::cpu::instruction_set::{CodeKernels, ManyRows};
use crate::shared::Shared;
use std::ops::Range;

// Eight rows of activations form a packed group.
code_kernels!(Sixteen, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", 8);
