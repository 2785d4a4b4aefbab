//! Repacking: from a format's blocks through its codes, so that every format with codes is served.

use super::kinds::has_kernels;
use super::{CHUNK, Coding, Kernel, Panels, Scheme};
use crate::region::Region;
use crate::shared::Shared;
use crate::{Backend, Precision};
use half::{bf16, f16};
use kvant_core::{Codes, Levels, Scaling, Tensor};

impl Panels {
    /// `None` for a format without codes, or of a shape that panels don't have.
    pub fn new(backend: &Backend, kernel: Kernel, precision: Precision, tensor: &Tensor) -> Option<Self> {
        let format = tensor.format();
        let grid = format.grid()?;
        let block = format.block();
        let coding = match grid.levels() {
            Levels::Linear { count, offset } => match count {
                16 => Coding::Four(offset),
                32 => Coding::Five(offset),
                64 => Coding::Six(offset),
                256 if offset == 128 => Coding::Bytes,
                _ => return None,
            },
            Levels::Table(table) => {
                let mut all = [0; 16];
                all.get_mut(..table.len())?.copy_from_slice(table);
                Coding::Table(all)
            }
        };
        let scheme = match (grid.scaling(), block.elements, block.group) {
            (Scaling::Block, CHUNK, _) if format.name() == "mxfp4" => Scheme::Power,
            (Scaling::Block, CHUNK, _) => Scheme::Block,
            (Scaling::BlockAffine, CHUNK, _) => Scheme::Affine,
            (Scaling::Groups { .. }, 256, 32) => Scheme::Groups,
            (Scaling::Groups { .. }, 256, 16) => Scheme::HalfGroups,
            (Scaling::GroupsAffine { .. }, 256, 32) => Scheme::GroupsAffine,
            _ => return None,
        };
        if !has_kernels(coding, scheme) {
            return None;
        }
        let rows = tensor.shape().rows();
        let lanes = kernel.rows();
        let panels = rows.div_ceil(lanes);
        let mut new = Self {
            tensor: tensor.clone(),
            backend: backend.clone(),
            kernel,
            precision,
            coding,
            scheme,
            codes: Region::new(0),
            scales: Region::new(0),
            shared: Region::new(0),
        };
        let each = new.panel_bytes();
        [new.codes, new.scales, new.shared] = each.map(|bytes| Region::new(panels * bytes));
        let codes = Shared::new(new.codes.bytes_mut());
        let (scales, shared) = (Shared::new(new.scales.bytes_mut()), Shared::new(new.shared.bytes_mut()));
        backend.pool().run(panels, &|panel| {
            // SAFETY: each task has its own panel.
            let (codes, scales, shared) = unsafe {
                (
                    codes.part(panel * each[0], each[0]),
                    scales.part(panel * each[1], each[1]),
                    shared.part(panel * each[2], each[2]),
                )
            };
            let mut opened = Codes::new(block);
            for row in 0..lanes.min(rows - panel * lanes) {
                let bytes = tensor.rows(panel * lanes + row, 1);
                for (index, bytes) in bytes.chunks_exact(block.bytes).enumerate() {
                    grid.unpack(bytes, &mut opened);
                    let first = index * block.elements / CHUNK;
                    for (i, part) in opened.codes.as_chunks::<CHUNK>().0.iter().enumerate() {
                        let chunk = first + i;
                        let to = &mut codes[chunk * lanes * coding.bytes()..];
                        put_codes(coding, part, lanes, row, to);
                        let to = &mut scales[chunk * lanes * scheme.bytes()..];
                        put_scales(scheme, &opened, i, lanes, row, to);
                    }
                    if scheme.shared_bytes() > 0 {
                        put_half(&mut shared[index * lanes * scheme.shared_bytes()..], row, opened.d);
                    }
                    if scheme == Scheme::GroupsAffine {
                        put_half(
                            &mut shared[index * lanes * scheme.shared_bytes()..],
                            lanes + row,
                            opened.dmin,
                        );
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
fn put_codes(coding: Coding, codes: &[u8; CHUNK], lanes: usize, row: usize, to: &mut [u8]) {
    let quads: [u32; 8] = std::array::from_fn(|q| {
        u32::from_le_bytes([codes[4 * q], codes[4 * q + 1], codes[4 * q + 2], codes[4 * q + 3]])
    });
    let mut put = |vector: usize, word: u32| {
        to[vector * 4 * lanes + row * 4..][..4].copy_from_slice(&word.to_le_bytes());
    };
    if coding == Coding::Bytes {
        // Codes are 128 above their levels.
        quads.iter().enumerate().for_each(|(q, quad)| put(q, quad ^ 0x8080_8080));
        return;
    }
    for v in 0..4 {
        put(v, quads[v] & 0x0f0f_0f0f | (quads[v + 4] & 0x0f0f_0f0f) << 4);
    }
    let high = |q: usize| quads[q] >> 4 & 0x0303_0303;
    match coding {
        Coding::Five(_) => put(4, (0..8).fold(0, |all, q| all | high(q) << q)),
        Coding::Six(_) => {
            for half in 0..2 {
                put(4 + half, (0..4).fold(0, |all, q| all | high(4 * half + q) << (2 * q)));
            }
        }
        _ => {}
    }
}

/// One row's scales of chunk `chunk` of an opened block.
fn put_scales(scheme: Scheme, opened: &Codes, chunk: usize, lanes: usize, row: usize, to: &mut [u8]) {
    let integer = |group: usize| opened.scales[group].to_le_bytes()[0];
    match scheme {
        Scheme::Block => put_half(to, row, opened.d),
        Scheme::Power => {
            to[2 * row..][..2].copy_from_slice(&bf16::from_f32(opened.d).to_le_bytes());
        }
        Scheme::Affine => {
            put_half(to, row, opened.d);
            put_half(to, lanes + row, -opened.dmin);
        }
        Scheme::GroupsAffine => {
            to[row] = integer(chunk);
            to[lanes + row] = opened.mins[chunk].to_le_bytes()[0];
        }
        Scheme::Groups => to[row] = integer(chunk),
        Scheme::HalfGroups => {
            to[row] = integer(2 * chunk);
            to[lanes + row] = integer(2 * chunk + 1);
        }
    }
}
