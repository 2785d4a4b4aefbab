//! Repacking: from a format's blocks through its codes, so that every format with codes is served.

use super::{CHUNK, Coding, Panels, ROWS, SHARING, Scheme};
use crate::Backend;
use crate::cpu::avx2::Avx2;
use crate::region::Region;
use crate::shared::Shared;
use half::{bf16, f16};
use kvant_core::{Codes, Levels, Scaling, Tensor};

impl Panels {
    /// `None` for a format without codes, or of a shape that panels don't have.
    pub fn new(backend: &Backend, avx2: Option<Avx2>, tensor: &Tensor) -> Option<Self> {
        let format = tensor.format();
        let grid = format.grid()?;
        let block = format.block();
        let coding = match grid.levels() {
            Levels::Linear { count, offset } => match count {
                16 => Coding::Four(offset),
                32 => Coding::Five(offset),
                64 => Coding::Six(offset),
                _ => Coding::Bytes,
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
        let (rows, columns) = (tensor.shape().rows(), tensor.shape().columns());
        let (panels, chunks) = (rows.div_ceil(ROWS), columns / CHUNK);
        let mut new = Self {
            tensor: tensor.clone(),
            backend: backend.clone(),
            avx2,
            coding,
            scheme,
            codes: Region::new(panels * chunks * coding.bytes()),
            scales: Region::new(panels * chunks * scheme.bytes()),
            shared: Region::new(panels * (chunks / SHARING) * scheme.shared_bytes()),
        };
        let each =
            [chunks * coding.bytes(), chunks * scheme.bytes(), chunks / SHARING * scheme.shared_bytes()];
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
            for row in 0..ROWS.min(rows - panel * ROWS) {
                let bytes = tensor.rows(panel * ROWS + row, 1);
                for (index, bytes) in bytes.chunks_exact(block.bytes).enumerate() {
                    grid.unpack(bytes, &mut opened);
                    let first = index * block.elements / CHUNK;
                    for (i, part) in opened.codes.chunks_exact(CHUNK).enumerate() {
                        let chunk = first + i;
                        put_codes(coding, &grid.levels(), part, row, &mut codes[chunk * coding.bytes()..]);
                        put_scales(scheme, &opened, i, row, &mut scales[chunk * scheme.bytes()..]);
                    }
                    if scheme.shared_bytes() > 0 {
                        put_half(&mut shared[index * scheme.shared_bytes()..], row, opened.d);
                    }
                    if scheme == Scheme::GroupsAffine {
                        put_half(&mut shared[index * scheme.shared_bytes()..], ROWS + row, opened.dmin);
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

/// One row's codes of a chunk.
fn put_codes(coding: Coding, levels: &Levels, codes: &[u8], row: usize, to: &mut [u8]) {
    for (column, &code) in codes.iter().enumerate() {
        let (quad, place) = (column / 4, row * 4 + column % 4);
        if coding == Coding::Bytes {
            to[quad * 32 + place] = (levels.level(code) as i8).cast_unsigned();
            continue;
        }
        to[quad % 4 * 32 + place] |= (code & 15) << (quad / 4 * 4);
        match coding {
            Coding::Five(_) => to[128 + place] |= (code >> 4) << quad,
            Coding::Six(_) => to[128 + quad / 4 * 32 + place] |= (code >> 4) << (quad % 4 * 2),
            _ => {}
        }
    }
}

/// One row's scales of chunk `chunk` of an opened block.
fn put_scales(scheme: Scheme, opened: &Codes, chunk: usize, row: usize, to: &mut [u8]) {
    let integer = |group: usize| opened.scales[group].to_le_bytes()[0];
    match scheme {
        Scheme::Block => put_half(to, row, opened.d),
        Scheme::Power => {
            to[2 * row..][..2].copy_from_slice(&bf16::from_f32(opened.d).to_le_bytes());
        }
        Scheme::Affine => {
            put_half(to, row, opened.d);
            put_half(to, ROWS + row, -opened.dmin);
        }
        Scheme::GroupsAffine => {
            to[row] = integer(chunk);
            to[ROWS + row] = opened.mins[chunk].to_le_bytes()[0];
        }
        Scheme::Groups => to[row] = integer(chunk),
        Scheme::HalfGroups => {
            to[row] = integer(2 * chunk);
            to[ROWS + row] = integer(2 * chunk + 1);
        }
    }
}
