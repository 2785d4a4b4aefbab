//! The reference kernels for any processor: plain loops that add in a fixed order. Tests compare all other kernels with
//! these kernels.

pub(super) mod codes;
mod loops;

use super::instruction_set::{Chain, CodeKernels, InstructionSet};
use crate::Isa;
use std::hint::black_box;

/// The scalar instruction set, which every processor has.
pub(super) static SCALAR: InstructionSet = InstructionSet {
    isa: Isa::Scalar,
    is_available: || true,
    loops: loops::LOOPS,
    codes: CodeKernels {
        panel_rows: 8,
        many_rows: &[],
        few_rows: codes::few_rows,
        add_outliers: codes::add_outliers,
    },
    integer_chain: INTEGER_CHAIN,
    float_chain: FLOAT_CHAIN,
};

/// Integer products that the compiler vectorizes. They measure the peak throughput.
pub(super) const INTEGER_CHAIN: Chain = Chain { multiply_adds: 16 * 16, run: run_integers };
/// Float products that the compiler vectorizes. They measure the peak throughput.
pub(super) const FLOAT_CHAIN: Chain = Chain { multiply_adds: 16 * 4, run: run_floats };

fn run_integers(steps: usize) {
    let (a, mut sums) = (black_box([3i16; 16]), [[1i32; 16]; 16]);
    for _ in 0..steps {
        for sums in &mut sums {
            sums.iter_mut().zip(a).for_each(|(sum, a)| *sum = sum.wrapping_add(i32::from(a) * (*sum & 127)));
        }
    }
    black_box(sums);
}

fn run_floats(steps: usize) {
    let (a, mut sums) = (black_box(0.999_9f32), [[1.0f32; 4]; 16]);
    for _ in 0..steps {
        for sum in sums.as_flattened_mut() {
            *sum = *sum * a + 1e-4;
        }
    }
    black_box(sums);
}
