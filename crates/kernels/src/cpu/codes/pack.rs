//! Packing: from a format's blocks through its codes, so that every format with codes is served.

use super::layout::{CHUNK, CodeLayout, LayoutPair, ScaleLayout};
use super::matrix::CodeMatrix;
use crate::Pool;
use crate::huge_pages::HugePages;
use crate::shared::Shared;
use half::{bf16, f16};
use kvant_core::{Codes, Levels, Scaling, Tensor};

impl CodeMatrix {
    /// Packs a tensor into panels of `panel_rows` rows; `None` for a format without codes, or of a layout that panels don't
    /// have.
    pub fn new(pool: &Pool, panel_rows: usize, tensor: &Tensor) -> Option<Self> {
        let format = tensor.format();
        let grid = format.grid()?;
        let block = format.block();
        let code_layout = match grid.levels() {
            Levels::Linear { count, offset } => match count {
                16 => CodeLayout::Four(offset),
                32 => CodeLayout::Five(offset),
                64 => CodeLayout::Six(offset),
                256 if offset == 128 => CodeLayout::Bytes,
                _ => return None,
            },
            Levels::Table(table) => {
                let mut all = [0; 16];
                all.get_mut(..table.len())?.copy_from_slice(table);
                CodeLayout::Table(all)
            }
        };
        let scale_layout = match (grid.scaling(), block.elements, block.group) {
            (Scaling::Block, CHUNK, _) if format.name() == "mxfp4" => ScaleLayout::Power,
            (Scaling::Block, CHUNK, _) => ScaleLayout::Block,
            (Scaling::BlockAffine, CHUNK, _) => ScaleLayout::Affine,
            (Scaling::Groups { .. }, 256, 32) => ScaleLayout::Groups,
            (Scaling::Groups { .. }, 256, 16) => ScaleLayout::HalfGroups,
            (Scaling::GroupsAffine { .. }, 256, 32) => ScaleLayout::GroupsAffine,
            _ => return None,
        };
        let layouts = LayoutPair::new(code_layout, scale_layout)?;
        let (rows, columns) = (tensor.shape().rows(), tensor.shape().columns());
        let empty = || HugePages::new(0);
        let (codes, scales, shared) = (empty(), empty(), empty());
        let mut new =
            Self { rows, columns, panel_rows, code_layout, scale_layout, layouts, codes, scales, shared };
        let (panels, each) = (new.panels(), new.panel_bytes());
        [new.codes, new.scales, new.shared] = each.map(|bytes| HugePages::new(panels * bytes));
        let codes = Shared::new(new.codes.bytes_mut());
        let (scales, shared) = (Shared::new(new.scales.bytes_mut()), Shared::new(new.shared.bytes_mut()));
        pool.run(panels, &|panel| {
            // SAFETY: each task has its own panel.
            let (codes, scales, shared) = unsafe {
                (
                    codes.part(panel * each[0], each[0]),
                    scales.part(panel * each[1], each[1]),
                    shared.part(panel * each[2], each[2]),
                )
            };
            let mut opened = Codes::new(block);
            for row in 0..panel_rows.min(rows - panel * panel_rows) {
                let bytes = tensor.rows(panel * panel_rows + row, 1);
                for (index, bytes) in bytes.chunks_exact(block.bytes).enumerate() {
                    grid.unpack(bytes, &mut opened);
                    let first = index * block.elements / CHUNK;
                    for (i, part) in opened.codes.as_chunks::<CHUNK>().0.iter().enumerate() {
                        let chunk = first + i;
                        let to = &mut codes[chunk * panel_rows * code_layout.bytes()..];
                        put_codes(code_layout, part, panel_rows, row, to);
                        let to = &mut scales[chunk * panel_rows * scale_layout.bytes()..];
                        put_scales(scale_layout, &opened, i, panel_rows, row, to);
                    }
                    let to = &mut shared[index * panel_rows * scale_layout.shared_bytes()..];
                    if scale_layout.shared_bytes() > 0 {
                        put_half(to, row, opened.d);
                    }
                    if scale_layout == ScaleLayout::GroupsAffine {
                        put_half(to, panel_rows + row, opened.dmin);
                    }
                }
            }
        });
        Some(new)
    }
}

fn put_half(to: &mut [u8], at: usize, x: f32) {
    to[2 * at..][..2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

/// One row's codes of a chunk, four at a time: each byte of a word has its own column.
fn put_codes(layout: CodeLayout, codes: &[u8; CHUNK], lanes: usize, row: usize, to: &mut [u8]) {
    let quads: [u32; 8] = std::array::from_fn(|q| {
        u32::from_le_bytes([codes[4 * q], codes[4 * q + 1], codes[4 * q + 2], codes[4 * q + 3]])
    });
    let mut put = |vector: usize, word: u32| {
        to[vector * 4 * lanes + row * 4..][..4].copy_from_slice(&word.to_le_bytes());
    };
    if layout == CodeLayout::Bytes {
        // Codes are 128 above their levels.
        quads.iter().enumerate().for_each(|(q, quad)| put(q, quad ^ 0x8080_8080));
        return;
    }
    for v in 0..4 {
        put(v, quads[v] & 0x0f0f_0f0f | (quads[v + 4] & 0x0f0f_0f0f) << 4);
    }
    let high = |q: usize| quads[q] >> 4 & 0x0303_0303;
    match layout {
        CodeLayout::Five(_) => put(4, (0..8).fold(0, |all, q| all | high(q) << q)),
        CodeLayout::Six(_) => {
            for half in 0..2 {
                put(4 + half, (0..4).fold(0, |all, q| all | high(4 * half + q) << (2 * q)));
            }
        }
        _ => {}
    }
}

/// One row's scales of chunk `chunk` of an opened block.
fn put_scales(layout: ScaleLayout, opened: &Codes, chunk: usize, lanes: usize, row: usize, to: &mut [u8]) {
    let integer = |group: usize| opened.scales[group].to_le_bytes()[0];
    match layout {
        ScaleLayout::Block => put_half(to, row, opened.d),
        ScaleLayout::Power => {
            to[2 * row..][..2].copy_from_slice(&bf16::from_f32(opened.d).to_le_bytes());
        }
        ScaleLayout::Affine => {
            put_half(to, row, opened.d);
            put_half(to, lanes + row, -opened.dmin);
        }
        ScaleLayout::GroupsAffine => {
            to[row] = integer(chunk);
            to[lanes + row] = opened.mins[chunk].to_le_bytes()[0];
        }
        ScaleLayout::Groups => to[row] = integer(chunk),
        ScaleLayout::HalfGroups => {
            to[row] = integer(2 * chunk);
            to[lanes + row] = integer(2 * chunk + 1);
        }
    }
}
