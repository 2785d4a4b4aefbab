//! Products of integer codes, one code at a time. `codes/layout.rs` defines panels, chunks, superblocks and quads.

use crate::cpu::codes::activations::Activations;
use crate::cpu::codes::layout::{CHUNK, CodeLayout, SUPERBLOCK_CHUNKS, ScaleLayout};
use crate::cpu::codes::matrix::{CodeMatrix, Sums};
use crate::cpu::codes::outliers::OutliersOfRows;
use crate::shared::Shared;
use half::{bf16, f16};
use std::ops::Range;

/// Multiplies one panel with rows of activations. Entry i of `sums` receives the sums for row `first` + i of the
/// activations.
pub(crate) fn few_rows(matrix: &CodeMatrix, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
    for (i, sums) in sums.iter_mut().enumerate() {
        for (row, sum) in sums[..matrix.panel_rows].iter_mut().enumerate() {
            *sum = dot(matrix, panel, row, x, first + i);
        }
    }
}

/// Adds the products of outliers with some panels to the results `y`.
pub(crate) fn add_outliers(
    matrix: &CodeMatrix,
    panels: Range<usize>,
    OutliersOfRows { all: x, rows, .. }: &OutliersOfRows,
    y: &Shared<f32>,
) {
    let panel_rows = matrix.panel_rows;
    for row in rows.clone().filter(|&row| !x.of(row).is_empty()) {
        for matrix_row in panels.start * panel_rows..(panels.end * panel_rows).min(matrix.rows) {
            let mut sum = 0.0f32;
            for outlier in x.of(row) {
                let column = x.columns()[outlier.index as usize] as usize;
                sum = outlier.value.mul_add(weight(matrix, matrix_row, column), sum);
            }
            // SAFETY: each task has its own panels, so no other task accesses this result.
            unsafe { y.part(row * matrix.rows + matrix_row, 1)[0] += sum };
        }
    }
}

/// Decodes one weight. First the product of the scales is rounded to `f32`. After that, this product is multiplied by
/// the level.
fn weight(matrix: &CodeMatrix, row: usize, column: usize) -> f32 {
    let (code_layout, scale_layout, panel_rows) =
        (matrix.code_layout, matrix.scale_layout, matrix.panel_rows);
    let (panel, row, chunk) = (matrix.panel(row / panel_rows), row % panel_rows, column / CHUNK);
    let codes = &panel.codes[chunk * panel_rows * code_layout.bytes()..];
    let scales = &panel.scales[chunk * panel_rows * scale_layout.bytes()..];
    let shared = |at: usize| {
        f16::from_le_bytes(u16_bytes(
            &panel.shared[chunk / SUPERBLOCK_CHUNKS * panel_rows * scale_layout.shared_bytes()..],
            at,
        ))
        .to_f32()
    };
    let code = code(code_layout, codes, panel_rows, row, column % CHUNK);
    let level = f32::from(code - code_layout.zero_point());
    match scale_layout {
        ScaleLayout::Block => f16::from_le_bytes(u16_bytes(scales, row)).to_f32() * level,
        ScaleLayout::Power => bf16::from_le_bytes(u16_bytes(scales, row)).to_f32() * level,
        ScaleLayout::Affine => {
            let [d, m] = [row, panel_rows + row].map(|at| f16::from_le_bytes(u16_bytes(scales, at)).to_f32());
            d.mul_add(f32::from(code), m)
        }
        ScaleLayout::GroupsAffine => {
            let minimum = -shared(panel_rows + row) * f32::from(scales[panel_rows + row]);
            (shared(row) * f32::from(scales[row])).mul_add(f32::from(code), minimum)
        }
        ScaleLayout::Groups => shared(row) * f32::from(scales[row].cast_signed()) * level,
        ScaleLayout::HalfGroups => {
            let half = column % CHUNK / (CHUNK / 2);
            shared(row) * f32::from(scales[half * panel_rows + row].cast_signed()) * level
        }
    }
}

/// Returns the two bytes of the 16-bit value with index `at`.
fn u16_bytes(bytes: &[u8], at: usize) -> [u8; 2] {
    [bytes[2 * at], bytes[2 * at + 1]]
}

/// Returns the product of row `row` of panel `panel` with row `token` of the activations.
fn dot(matrix: &CodeMatrix, panel: usize, row: usize, x: &Activations, token: usize) -> f32 {
    let (code_layout, scale_layout, panel_rows) =
        (matrix.code_layout, matrix.scale_layout, matrix.panel_rows);
    let (panel, x) = (matrix.panel(panel), x.row(token));
    let f16_at = |bytes: &[u8], at: usize| f16::from_le_bytes(u16_bytes(bytes, at)).to_f32();
    let mut sum = 0.0f32;
    // The sum of a superblock before the superblock's scale is applied, and the sum of the minima of the superblock.
    let (mut shared_sum, mut shared_minima) = (0.0f32, 0.0f32);
    for chunk in 0..matrix.chunks() {
        let codes = &panel.codes[chunk * panel_rows * code_layout.bytes()..];
        let scales = &panel.scales[chunk * panel_rows * scale_layout.bytes()..];
        let shared = || &panel.shared[chunk / SUPERBLOCK_CHUNKS * panel_rows * scale_layout.shared_bytes()..];
        // For each half of the chunk: the sum of the products. The zero point is not yet subtracted from the codes.
        let mut halves = [0i32; 2];
        for column in 0..CHUNK {
            let product = i32::from(code(code_layout, codes, panel_rows, row, column))
                * i32::from(x.codes[chunk * CHUNK + column]);
            halves[column / (CHUNK / 2)] += product;
        }
        let ([scale, scaled_sum], sums) = (x.scales[chunk], x.sums[chunk].map(i32::from));
        let zero_point = i32::from(code_layout.zero_point());
        let chunk_sum = match scale_layout {
            ScaleLayout::Block | ScaleLayout::Power => {
                halves[0] + halves[1] - zero_point * (sums[0] + sums[1])
            }
            _ => halves[0] + halves[1],
        } as f32;
        match scale_layout {
            ScaleLayout::Block | ScaleLayout::Power => {
                let d = match scale_layout {
                    ScaleLayout::Block => f16_at(scales, row),
                    _ => bf16::from_le_bytes(u16_bytes(scales, row)).to_f32(),
                };
                sum = d.mul_add(chunk_sum * scale, sum);
            }
            ScaleLayout::Affine => {
                sum = f16_at(scales, row).mul_add(chunk_sum * scale, sum);
                sum = f16_at(scales, panel_rows + row).mul_add(scaled_sum, sum);
            }
            ScaleLayout::GroupsAffine => {
                let integer = i32::from(scales[row]) * (halves[0] + halves[1]);
                shared_sum = (integer as f32).mul_add(scale, shared_sum);
                shared_minima = f32::from(scales[panel_rows + row]).mul_add(scaled_sum, shared_minima);
            }
            ScaleLayout::Groups => {
                let integer = i32::from(scales[row].cast_signed()) * (halves[0] + halves[1]);
                shared_sum = (integer as f32).mul_add(scale, shared_sum);
            }
            ScaleLayout::HalfGroups => {
                let s = [scales[row], scales[panel_rows + row]].map(|s| i32::from(s.cast_signed()));
                let half_product = |half: usize| s[half] * (halves[half] - zero_point * sums[half]);
                shared_sum = ((half_product(0) + half_product(1)) as f32).mul_add(scale, shared_sum);
            }
        }
        if scale_layout.shared_bytes() > 0 && chunk % SUPERBLOCK_CHUNKS == SUPERBLOCK_CHUNKS - 1 {
            sum = f16_at(shared(), row).mul_add(shared_sum, sum);
            if scale_layout == ScaleLayout::GroupsAffine {
                sum = (-f16_at(shared(), panel_rows + row)).mul_add(shared_minima, sum);
            }
            (shared_sum, shared_minima) = (0.0, 0.0);
        }
    }
    sum
}

/// Returns one stored code. If the layout stores levels or has a table, returns the signed level.
fn code(layout: CodeLayout, codes: &[u8], panel_rows: usize, row: usize, column: usize) -> i16 {
    let (vector, quad, byte) = (4 * panel_rows, column / 4, row * 4 + column % 4);
    let low_nibble = |codes: &[u8]| codes[quad % 4 * vector + byte] >> (quad / 4 * 4) & 15;
    match layout {
        CodeLayout::Four(_) => i16::from(low_nibble(codes)),
        CodeLayout::Table(table) => i16::from(table[usize::from(low_nibble(codes))]),
        CodeLayout::Five(_) => i16::from(low_nibble(codes) | (codes[4 * vector + byte] >> quad & 1) << 4),
        CodeLayout::Six(_) => {
            i16::from(low_nibble(codes) | (codes[(4 + quad / 4) * vector + byte] >> (quad % 4 * 2) & 3) << 4)
        }
        CodeLayout::Bytes => i16::from(codes[quad * vector + byte].cast_signed()),
    }
}
