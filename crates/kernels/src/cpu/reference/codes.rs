//! Products of integer codes, code by code.

use crate::cpu::codes::activations::Activations;
use crate::cpu::codes::layout::{CHUNK, CodeLayout, SHARING, ScaleLayout};
use crate::cpu::codes::matrix::{CodeMatrix, Sums};
use crate::cpu::codes::outliers::OutliersOfRows;
use crate::shared::Shared;
use half::{bf16, f16};
use std::ops::Range;

/// The sums of one panel with as many rows of activations, from `first` on, as there are sums.
pub(crate) fn few_rows(matrix: &CodeMatrix, panel: usize, x: &Activations, first: usize, sums: &mut Sums) {
    for (i, sums) in sums.iter_mut().enumerate() {
        for (row, sum) in sums[..matrix.panel_rows].iter_mut().enumerate() {
            *sum = dot(matrix, panel, row, x, first + i);
        }
    }
}

/// Adds the products of outliers with some panels.
pub(crate) fn add_outliers(
    matrix: &CodeMatrix,
    panels: Range<usize>,
    OutliersOfRows { all: x, rows, .. }: &OutliersOfRows,
    y: &Shared<f32>,
) {
    let lanes = matrix.panel_rows;
    for row in rows.clone().filter(|&row| !x.of(row).is_empty()) {
        for of_matrix in panels.start * lanes..(panels.end * lanes).min(matrix.rows) {
            let mut sum = 0.0f32;
            for outlier in x.of(row) {
                let column = x.columns()[outlier.place as usize] as usize;
                sum = outlier.value.mul_add(weight(matrix, of_matrix, column), sum);
            }
            // SAFETY: a task has its own panels.
            unsafe { y.part(row * matrix.rows + of_matrix, 1)[0] += sum };
        }
    }
}

/// One weight, decoded: scales first, then its level.
fn weight(matrix: &CodeMatrix, row: usize, column: usize) -> f32 {
    let (code_layout, scale_layout, lanes) = (matrix.code_layout, matrix.scale_layout, matrix.panel_rows);
    let (panel, row, chunk) = (matrix.panel(row / lanes), row % lanes, column / CHUNK);
    let codes = &panel.codes[chunk * lanes * code_layout.bytes()..];
    let scales = &panel.scales[chunk * lanes * scale_layout.bytes()..];
    let shared = |at: usize| {
        f16::from_le_bytes(half_at(
            &panel.shared[chunk / SHARING * lanes * scale_layout.shared_bytes()..],
            at,
        ))
        .to_f32()
    };
    let code = code(code_layout, codes, lanes, row, column % CHUNK);
    let level = f32::from(code - code_layout.zero_point());
    match scale_layout {
        ScaleLayout::Block => f16::from_le_bytes(half_at(scales, row)).to_f32() * level,
        ScaleLayout::Power => bf16::from_le_bytes(half_at(scales, row)).to_f32() * level,
        ScaleLayout::Affine => {
            let [d, m] = [row, lanes + row].map(|at| f16::from_le_bytes(half_at(scales, at)).to_f32());
            d.mul_add(f32::from(code), m)
        }
        ScaleLayout::GroupsAffine => {
            let least = -shared(lanes + row) * f32::from(scales[lanes + row]);
            (shared(row) * f32::from(scales[row])).mul_add(f32::from(code), least)
        }
        ScaleLayout::Groups => shared(row) * f32::from(scales[row].cast_signed()) * level,
        ScaleLayout::HalfGroups => {
            let half = column % CHUNK / (CHUNK / 2);
            shared(row) * f32::from(scales[half * lanes + row].cast_signed()) * level
        }
    }
}

fn half_at(bytes: &[u8], at: usize) -> [u8; 2] {
    [bytes[2 * at], bytes[2 * at + 1]]
}

fn dot(matrix: &CodeMatrix, panel: usize, row: usize, x: &Activations, token: usize) -> f32 {
    let (code_layout, scale_layout, lanes) = (matrix.code_layout, matrix.scale_layout, matrix.panel_rows);
    let (panel, x) = (matrix.panel(panel), x.row(token));
    let f16_at = |bytes: &[u8], at: usize| f16::from_le_bytes(half_at(bytes, at)).to_f32();
    let mut sum = 0.0f32;
    // What eight chunks come to before the scale that they share, and their minima likewise.
    let (mut shared_sum, mut shared_minima) = (0.0f32, 0.0f32);
    for chunk in 0..matrix.chunks() {
        let codes = &panel.codes[chunk * lanes * code_layout.bytes()..];
        let scales = &panel.scales[chunk * lanes * scale_layout.bytes()..];
        let shared = || &panel.shared[chunk / SHARING * lanes * scale_layout.shared_bytes()..];
        // Products of either half, codes as they are stored.
        let mut halves = [0i32; 2];
        for column in 0..CHUNK {
            let product = i32::from(code(code_layout, codes, lanes, row, column))
                * i32::from(x.codes[chunk * CHUNK + column]);
            halves[column / (CHUNK / 2)] += product;
        }
        let ([scale, scaled], sums) = (x.scales[chunk], x.sums[chunk].map(i32::from));
        let zero_point = i32::from(code_layout.zero_point());
        let whole = match scale_layout {
            ScaleLayout::Block | ScaleLayout::Power => {
                halves[0] + halves[1] - zero_point * (sums[0] + sums[1])
            }
            _ => halves[0] + halves[1],
        } as f32;
        match scale_layout {
            ScaleLayout::Block | ScaleLayout::Power => {
                let d = match scale_layout {
                    ScaleLayout::Block => f16_at(scales, row),
                    _ => bf16::from_le_bytes(half_at(scales, row)).to_f32(),
                };
                sum = d.mul_add(whole * scale, sum);
            }
            ScaleLayout::Affine => {
                sum = f16_at(scales, row).mul_add(whole * scale, sum);
                sum = f16_at(scales, lanes + row).mul_add(scaled, sum);
            }
            ScaleLayout::GroupsAffine => {
                let integer = i32::from(scales[row]) * (halves[0] + halves[1]);
                shared_sum = (integer as f32).mul_add(scale, shared_sum);
                shared_minima = f32::from(scales[lanes + row]).mul_add(scaled, shared_minima);
            }
            ScaleLayout::Groups => {
                let integer = i32::from(scales[row].cast_signed()) * (halves[0] + halves[1]);
                shared_sum = (integer as f32).mul_add(scale, shared_sum);
            }
            ScaleLayout::HalfGroups => {
                let s = [scales[row], scales[lanes + row]].map(|s| i32::from(s.cast_signed()));
                let of = |half: usize| s[half] * (halves[half] - zero_point * sums[half]);
                shared_sum = ((of(0) + of(1)) as f32).mul_add(scale, shared_sum);
            }
        }
        if scale_layout.shared_bytes() > 0 && chunk % SHARING == SHARING - 1 {
            sum = f16_at(shared(), row).mul_add(shared_sum, sum);
            if scale_layout == ScaleLayout::GroupsAffine {
                sum = (-f16_at(shared(), lanes + row)).mul_add(shared_minima, sum);
            }
            (shared_sum, shared_minima) = (0.0, 0.0);
        }
    }
    sum
}

/// One code, or level where codes stand for signed ones.
fn code(layout: CodeLayout, codes: &[u8], lanes: usize, row: usize, column: usize) -> i16 {
    let (vector, quad, place) = (4 * lanes, column / 4, row * 4 + column % 4);
    let low = |codes: &[u8]| codes[quad % 4 * vector + place] >> (quad / 4 * 4) & 15;
    match layout {
        CodeLayout::Four(_) => i16::from(low(codes)),
        CodeLayout::Table(table) => i16::from(table[usize::from(low(codes))]),
        CodeLayout::Five(_) => i16::from(low(codes) | (codes[4 * vector + place] >> quad & 1) << 4),
        CodeLayout::Six(_) => {
            i16::from(low(codes) | (codes[(4 + quad / 4) * vector + place] >> (quad % 4 * 2) & 3) << 4)
        }
        CodeLayout::Bytes => i16::from(codes[quad * vector + place].cast_signed()),
    }
}
