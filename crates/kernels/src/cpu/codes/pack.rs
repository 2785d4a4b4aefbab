//! Packs a tensor into a [`CodeMatrix`]. The format of the tensor first unpacks its blocks to codes, so this file does
//! not depend on the bytes of a format. `layout.rs` defines panels, chunks, superblocks and quads.

use super::layout::{CHUNK, CodeLayout, LayoutPair, ScaleLayout};
use super::matrix::CodeMatrix;
use crate::Pool;
use crate::huge_pages::HugePages;
use crate::shared::Shared;
use half::{bf16, f16};
use kvant_core::{Codes, Levels, Scaling, Tensor};

impl CodeMatrix {
    /// Packs a tensor into panels of `panel_rows` rows. Returns `None` if the format of the tensor has no codes, or if
    /// panels do not support the layout of the format.
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
        let (panels, panel_bytes) = (new.panels(), new.panel_bytes());
        [new.codes, new.scales, new.shared] = panel_bytes.map(|bytes| HugePages::new(panels * bytes));
        let codes = Shared::new(new.codes.bytes_mut());
        let (scales, shared) = (Shared::new(new.scales.bytes_mut()), Shared::new(new.shared.bytes_mut()));
        pool.run(panels, &|panel| {
            // SAFETY: each task writes only its own panel.
            let (codes, scales, shared) = unsafe {
                (
                    codes.part(panel * panel_bytes[0], panel_bytes[0]),
                    scales.part(panel * panel_bytes[1], panel_bytes[1]),
                    shared.part(panel * panel_bytes[2], panel_bytes[2]),
                )
            };
            let mut unpacked = Codes::new(block);
            for row in 0..panel_rows.min(rows - panel * panel_rows) {
                let bytes = tensor.rows(panel * panel_rows + row, 1);
                for (index, bytes) in bytes.chunks_exact(block.bytes).enumerate() {
                    grid.unpack(bytes, &mut unpacked);
                    let first = index * block.elements / CHUNK;
                    for (i, part) in unpacked.codes.as_chunks::<CHUNK>().0.iter().enumerate() {
                        let chunk = first + i;
                        let target = &mut codes[chunk * panel_rows * code_layout.bytes()..];
                        store_codes(code_layout, part, panel_rows, row, target);
                        let target = &mut scales[chunk * panel_rows * scale_layout.bytes()..];
                        store_scales(scale_layout, &unpacked, i, panel_rows, row, target);
                    }
                    let target = &mut shared[index * panel_rows * scale_layout.shared_bytes()..];
                    if scale_layout.shared_bytes() > 0 {
                        store_f16(target, row, unpacked.d);
                    }
                    if scale_layout == ScaleLayout::GroupsAffine {
                        store_f16(target, panel_rows + row, unpacked.dmin);
                    }
                }
            }
        });
        Some(new)
    }
}

/// Stores `x` as the `f16` with index `at` in `target`.
fn store_f16(target: &mut [u8], at: usize, x: f32) {
    target[2 * at..][..2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

/// Stores the codes of row `row` of a chunk. It handles four codes at the same time as a 32-bit word; each byte of the
/// word belongs to one column.
fn store_codes(layout: CodeLayout, codes: &[u8; CHUNK], panel_rows: usize, row: usize, target: &mut [u8]) {
    let quads: [u32; 8] = std::array::from_fn(|q| {
        u32::from_le_bytes([codes[4 * q], codes[4 * q + 1], codes[4 * q + 2], codes[4 * q + 3]])
    });
    let mut store = |vector: usize, word: u32| {
        target[vector * 4 * panel_rows + row * 4..][..4].copy_from_slice(&word.to_le_bytes());
    };
    if layout == CodeLayout::Bytes {
        // The unpacked code is level + 128; the panel stores the level. The XOR subtracts 128 from each byte.
        quads.iter().enumerate().for_each(|(q, quad)| store(q, quad ^ 0x8080_8080));
        return;
    }
    for v in 0..4 {
        store(v, quads[v] & 0x0f0f_0f0f | (quads[v + 4] & 0x0f0f_0f0f) << 4);
    }
    let high = |q: usize| quads[q] >> 4 & 0x0303_0303;
    match layout {
        CodeLayout::Five(_) => store(4, (0..8).fold(0, |all, q| all | high(q) << q)),
        CodeLayout::Six(_) => {
            for half in 0..2 {
                store(4 + half, (0..4).fold(0, |all, q| all | high(4 * half + q) << (2 * q)));
            }
        }
        _ => {}
    }
}

/// Stores the scales of row `row` for one chunk. `chunk` is the index of the chunk in the unpacked block.
fn store_scales(
    layout: ScaleLayout,
    unpacked: &Codes,
    chunk: usize,
    panel_rows: usize,
    row: usize,
    target: &mut [u8],
) {
    let integer = |group: usize| unpacked.scales[group].to_le_bytes()[0];
    match layout {
        ScaleLayout::Block => store_f16(target, row, unpacked.d),
        ScaleLayout::Power => {
            target[2 * row..][..2].copy_from_slice(&bf16::from_f32(unpacked.d).to_le_bytes());
        }
        ScaleLayout::Affine => {
            store_f16(target, row, unpacked.d);
            store_f16(target, panel_rows + row, -unpacked.dmin);
        }
        ScaleLayout::GroupsAffine => {
            target[row] = integer(chunk);
            target[panel_rows + row] = unpacked.mins[chunk].to_le_bytes()[0];
        }
        ScaleLayout::Groups => target[row] = integer(chunk),
        ScaleLayout::HalfGroups => {
            target[row] = integer(2 * chunk);
            target[panel_rows + row] = integer(2 * chunk + 1);
        }
    }
}
