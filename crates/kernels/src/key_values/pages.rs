//! Pages of keys and values in one format, as `key_values.rs` draws them.
//!
//! Invariant: what one position stores depends on it alone. Left out: which pages there are, and who sees them.

use super::{BLOCK, KvFormat, LANES, PAGE};
use half::f16;
use half::slice::HalfFloatSliceExt;
use kvant_core::{Format, format};

/// A line of a cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: 64 bytes, any of them, without padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// Pages of all heads of keys and values of a layer.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    format: KvFormat,
    heads: usize,
    head_size: usize,
    lines: Vec<Line>,
}

impl Pages {
    /// None yet, of a format that fits the heads.
    pub fn new(format: KvFormat, heads: usize, head_size: usize) -> Self {
        Self { format, heads, head_size, lines: Vec::new() }
    }

    pub fn format(&self) -> KvFormat {
        self.format
    }

    pub fn heads(&self) -> usize {
        self.heads
    }

    pub fn head_size(&self) -> usize {
        self.head_size
    }

    fn lines_of_page(&self) -> usize {
        (self.heads * self.format.head_bytes(self.head_size)).div_ceil(size_of::<Line>())
    }

    /// Bytes that `pages` take.
    pub fn bytes(&self, pages: usize) -> usize {
        pages * self.lines_of_page() * size_of::<Line>()
    }

    /// Takes the memory for `pages` at once.
    pub fn reserve(&mut self, pages: usize) {
        let lines = pages * self.lines_of_page();
        self.lines.reserve_exact(lines.saturating_sub(self.lines.len()));
    }

    /// Bytes of the memory that is taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    /// Makes room for `pages` at least.
    pub fn grow(&mut self, pages: usize) {
        let lines = pages * self.lines_of_page();
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
    }

    /// A head's keys and values in page `page`.
    pub fn head(&self, page: usize, head: usize) -> (&[u8], &[u8]) {
        let bytes: &[u8] = bytemuck::cast_slice(&self.lines);
        let each = self.format.head_bytes(self.head_size);
        bytes[self.bytes(page) + head * each..][..each].split_at(self.format.key_bytes(self.head_size))
    }

    /// Stores one position, heads × head size of either, at place `place` of page `page`.
    pub fn put(&mut self, page: usize, place: usize, keys: &[f32], values: &[f32], row: &mut Row) {
        let (format, head_size, start) = (self.format, self.head_size, self.bytes(page));
        let (each, panel) = (format.head_bytes(head_size), format.panel_bytes(head_size));
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.lines);
        let heads = keys.chunks_exact(head_size).zip(values.chunks_exact(head_size));
        for ((key, value), page) in heads.zip(bytes[start..].chunks_exact_mut(each)) {
            let (into_keys, into_values) = page.split_at_mut(format.key_bytes(head_size));
            let into_panel = &mut into_keys[place / LANES * panel..][..panel];
            match format {
                KvFormat::F32 | KvFormat::F16 => {
                    row.key(format, key, place % LANES, into_panel);
                    row.value(format, value, place, into_values);
                }
                KvFormat::Q8_0 | KvFormat::Q4_0 => {
                    row.key_blocks(format, key, place % LANES, into_panel);
                    row.value_blocks(format, value, place, into_values);
                }
            }
        }
    }
}

/// What one head of one position becomes on its way.
pub(super) struct Row {
    /// Numbers within the range of halves.
    within: Vec<f32>,
    halves: Vec<f16>,
    blocks: Vec<u8>,
}

impl Row {
    pub fn new(head_size: usize) -> Self {
        Self { within: vec![0.0; head_size], halves: vec![f16::ZERO; head_size], blocks: Vec::new() }
    }

    /// Bytes of each number of a head, one after the other.
    fn numbers(&mut self, format: KvFormat, x: &[f32], mut put: impl FnMut(usize, &[u8])) {
        if format == KvFormat::F32 {
            x.iter().enumerate().for_each(|(i, x)| put(i, &x.to_le_bytes()));
        } else {
            // The largest half instead of infinity, which would reach every later token.
            const MOST: f32 = 65_504.0;
            self.within.iter_mut().zip(x).for_each(|(kept, x)| *kept = x.clamp(-MOST, MOST));
            self.halves.convert_from_f32_slice(&self.within);
            self.halves.iter().enumerate().for_each(|(i, x)| put(i, &x.to_le_bytes()));
        }
    }

    fn key(&mut self, format: KvFormat, key: &[f32], lane: usize, panel: &mut [u8]) {
        self.numbers(format, key, |i, bytes| {
            panel[(i * LANES + lane) * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
        });
    }

    fn value(&mut self, format: KvFormat, value: &[f32], place: usize, values: &mut [u8]) {
        self.numbers(format, value, |i, bytes| {
            let at = i / LANES * PAGE * LANES + place * LANES + i % LANES;
            values[at * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
        });
    }

    /// Upstream's own blocks.
    fn encode(&mut self, format: KvFormat, x: &[f32]) -> usize {
        let format: &dyn Format = if format == KvFormat::Q8_0 { &format::Q8_0 } else { &format::Q4_0 };
        let each = format.block().bytes;
        self.blocks.resize(x.len() / BLOCK * each, 0);
        format.encode(x, None, &mut self.blocks);
        each
    }

    fn key_blocks(&mut self, format: KvFormat, key: &[f32], lane: usize, panel: &mut [u8]) {
        let each = self.encode(format, key);
        let blocks = self.blocks.chunks_exact(each);
        let into = panel.chunks_exact_mut(2 * LANES + (each - 2) * LANES);
        for (block, into) in blocks.zip(into) {
            let (scales, codes) = into.split_at_mut(2 * LANES);
            scales[2 * lane..][..2].copy_from_slice(&block[..2]);
            for (i, code) in block[2..].iter().enumerate() {
                codes[i * LANES + lane] = *code;
            }
        }
    }

    fn value_blocks(&mut self, format: KvFormat, value: &[f32], place: usize, values: &mut [u8]) {
        let each = self.encode(format, value);
        let parts = values.chunks_exact_mut(format.part_bytes());
        for (block, part) in self.blocks.chunks_exact(each).zip(parts) {
            let (scales, codes) = part.split_at_mut(2 * PAGE);
            scales[2 * place..][..2].copy_from_slice(&block[..2]);
            codes[place * (each - 2)..][..each - 2].copy_from_slice(&block[2..]);
        }
    }
}
