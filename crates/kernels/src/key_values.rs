//! Keys and values of one layer and one sequence, laid out for attention.
//!
//! Positions come in pages of [`PAGE`]; a page holds each head's keys, then its values:
//!
//! ```text
//! keys:    four panels of 16 positions; a panel has, number by number of the head, that number of all 16 keys
//! values:  chunks of 16 numbers of the head; a chunk has, position by position, these numbers
//! q8_0:    codes of one byte; 32 numbers of a head under one scale (a half), scales of a panel or a block in front
//! q4_0:    codes of four bits, numbers i and i + 16 of the 32 in one byte
//! ```
//!
//! So one vector holds 16 scores or 16 numbers of a result, and every sum runs in order of its numbers or positions.
//! Keys in `q4_0` are turned by a Hadamard matrix first, which spreads loud numbers over the head; queries are turned
//! alike, so that products stay. Invariant: what one position stores depends on it alone. Left out: who shares pages.

use crate::Error;
use half::f16;
use half::slice::HalfFloatSliceExt;
use kvant_core::{Format, format};

/// Positions of a page.
pub(crate) const PAGE: usize = 64;
/// Keys of a panel, and numbers of a chunk.
pub(crate) const LANES: usize = 16;
/// Numbers under one scale.
pub(crate) const BLOCK: usize = 32;
/// Panels of a page.
pub(crate) const PANELS: usize = PAGE / LANES;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// As they are.
    #[default]
    F32,
    /// Half floats.
    F16,
    /// Eight bits, 32 under one scale.
    Q8_0,
    /// Four bits, 32 under one scale, keys after a rotation.
    Q4_0,
}

impl KvFormat {
    /// Every format, the largest first.
    pub const ALL: &[Self] = &[Self::F32, Self::F16, Self::Q8_0, Self::Q4_0];

    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// Refuses heads that the format's blocks don't divide.
    ///
    /// # Errors
    /// [`Error::HeadSize`].
    pub fn check(self, head_size: usize) -> Result<(), Error> {
        let quantized = matches!(self, Self::Q8_0 | Self::Q4_0);
        if quantized && !head_size.is_multiple_of(BLOCK) {
            return Err(Error::HeadSize { format: self.name(), head_size });
        }
        Ok(())
    }

    /// Bytes of a panel of keys.
    pub(crate) fn panel_bytes(self, head_size: usize) -> usize {
        match self {
            Self::F32 => head_size * LANES * 4,
            Self::F16 => head_size * LANES * 2,
            Self::Q8_0 => head_size / BLOCK * (2 * LANES + BLOCK * LANES),
            Self::Q4_0 => head_size / BLOCK * (2 * LANES + BLOCK * LANES / 2),
        }
    }

    /// Bytes of what values of a page have in [`KvFormat::numbers`] numbers of a head.
    pub(crate) fn part_bytes(self) -> usize {
        match self {
            Self::F32 => PAGE * LANES * 4,
            Self::F16 => PAGE * LANES * 2,
            Self::Q8_0 => PAGE * (2 + BLOCK),
            Self::Q4_0 => PAGE * (2 + BLOCK / 2),
        }
    }

    /// Numbers of a head whose values stand together.
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::F32 | Self::F16 => LANES,
            Self::Q8_0 | Self::Q4_0 => BLOCK,
        }
    }

    /// Bytes of a head's keys in a page.
    pub(crate) fn key_bytes(self, head_size: usize) -> usize {
        PANELS * self.panel_bytes(head_size)
    }

    /// Bytes of a head's keys and values in a page.
    pub(crate) fn head_bytes(self, head_size: usize) -> usize {
        self.key_bytes(head_size) + head_size.div_ceil(self.numbers()) * self.part_bytes()
    }
}

/// A line of a cache.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: 64 bytes, any of them, without padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// Keys and values of the positions so far.
#[derive(Clone, Debug)]
pub struct KeyValues {
    format: KvFormat,
    heads: usize,
    head_size: usize,
    positions: usize,
    lines: Vec<Line>,
}

impl KeyValues {
    /// None yet.
    ///
    /// # Errors
    /// [`Error::HeadSize`] where the format's blocks don't divide a head.
    pub fn new(format: KvFormat, heads: usize, head_size: usize) -> Result<Self, Error> {
        format.check(head_size)?;
        Ok(Self { format, heads, head_size, positions: 0, lines: Vec::new() })
    }

    /// How they are stored.
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.positions
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// Heads of keys and values.
    pub(crate) fn heads(&self) -> usize {
        self.heads
    }

    /// Numbers of a head.
    pub(crate) fn head_size(&self) -> usize {
        self.head_size
    }

    fn page_lines(&self) -> usize {
        (self.heads * self.format.head_bytes(self.head_size)).div_ceil(size_of::<Line>())
    }

    /// Bytes that `positions` take: whole pages.
    pub fn bytes(&self, positions: usize) -> usize {
        positions.div_ceil(PAGE) * self.page_lines() * size_of::<Line>()
    }

    /// Takes the memory for `positions` at once.
    pub fn reserve(&mut self, positions: usize) {
        let lines = positions.div_ceil(PAGE) * self.page_lines();
        self.lines.reserve_exact(lines.saturating_sub(self.lines.len()));
    }

    /// Forgets everything from position `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        self.positions = self.positions.min(positions);
    }

    /// A head's keys and values in a page.
    pub(crate) fn page(&self, page: usize, head: usize) -> (&[u8], &[u8]) {
        let bytes: &[u8] = bytemuck::cast_slice(&self.lines);
        let start = page * self.page_lines() * size_of::<Line>();
        let each = self.format.head_bytes(self.head_size);
        bytes[start + head * each..][..each].split_at(self.format.key_bytes(self.head_size))
    }

    /// Appends positions: `keys` and `values` are n × heads × head size.
    ///
    /// Panics unless both are whole rows and as many.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) {
        let width = self.heads * self.head_size;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "rows of {width}");
        let count = keys.len() / width;
        let (format, heads, head_size) = (self.format, self.heads, self.head_size);
        let lines = (self.positions + count).div_ceil(PAGE) * self.page_lines();
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        let page_bytes = self.page_lines() * size_of::<Line>();
        let (each, key_bytes) = (format.head_bytes(head_size), format.key_bytes(head_size));
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.lines);
        let mut row = Row::new(head_size);
        for (i, (keys, values)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate() {
            let position = self.positions + i;
            let page = &mut bytes[position / PAGE * page_bytes..][..page_bytes];
            for head in 0..heads {
                let (into_keys, into_values) = page[head * each..][..each].split_at_mut(key_bytes);
                let key = &keys[head * head_size..][..head_size];
                let value = &values[head * head_size..][..head_size];
                let place = position % PAGE;
                let panel = format.panel_bytes(head_size);
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
        self.positions += count;
    }
}

/// What one head of one position becomes on its way.
struct Row {
    halves: Vec<f16>,
    /// Numbers as they are stored: turned, or within range.
    turned: Vec<f32>,
    blocks: Vec<u8>,
}

impl Row {
    fn new(head_size: usize) -> Self {
        Self { halves: vec![f16::ZERO; head_size], turned: vec![0.0; head_size], blocks: Vec::new() }
    }

    /// Bytes of each number of a head, one after the other.
    fn numbers(&mut self, format: KvFormat, x: &[f32], mut put: impl FnMut(usize, &[u8])) {
        if format == KvFormat::F32 {
            x.iter().enumerate().for_each(|(i, x)| put(i, &x.to_le_bytes()));
        } else {
            // The largest half instead of infinity, which would reach every later token.
            const MOST: f32 = 65_504.0;
            self.turned.iter_mut().zip(x).for_each(|(kept, x)| *kept = x.clamp(-MOST, MOST));
            self.halves.convert_from_f32_slice(&self.turned);
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
        let mut turned = std::mem::take(&mut self.turned);
        turned.copy_from_slice(key);
        if format == KvFormat::Q4_0 {
            turn(&mut turned);
        }
        let each = self.encode(format, &turned);
        self.turned = turned;
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

/// Turns a head by a Hadamard matrix, in pieces of the largest power of two that divides it. Its own inverse.
pub(crate) fn turn(head: &mut [f32]) {
    let size = 1 << head.len().trailing_zeros();
    let scale = 1.0 / (size as f32).sqrt();
    for piece in head.chunks_exact_mut(size) {
        let mut width = 1;
        while width < size {
            for pair in piece.chunks_exact_mut(2 * width) {
                let (a, b) = pair.split_at_mut(width);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            width *= 2;
        }
        piece.iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_keeps_products_and_is_its_own_inverse() {
        let a: Vec<f32> = (0..96).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..96).map(|i| (i as f32 * 0.71).cos()).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (mut c, mut d) = (a.clone(), b.clone());
        turn(&mut c);
        turn(&mut d);
        assert!((dot(&a, &b) - dot(&c, &d)).abs() < 1e-4);
        assert!(a.iter().zip(&c).any(|(a, c)| (a - c).abs() > 0.1));
        turn(&mut c);
        assert!(a.iter().zip(&c).all(|(a, c)| (a - c).abs() < 1e-5));
    }
}
