//! Pages of keys and values in one format, as `key_values.rs` draws them.
//!
//! Invariant: what one position stores depends on it alone. Left out: which pages there are, and who sees them.

use super::pool::{Line, Page, PagePool};
use crate::Error;
use crate::kv_format::{BLOCK, KvFormat, LANES, PAGE};
use half::f16;
use half::slice::HalfFloatSliceExt;
use kvant_core::{Format, format};
use std::sync::Arc;

/// Pages of all heads of keys and values of a layer. Clones share them; a page that is written to is a copy.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    format: KvFormat,
    heads: usize,
    head_size: usize,
    pages: Vec<Arc<Page>>,
    pool: PagePool,
}

impl Pages {
    /// None yet, of a format that fits the heads.
    pub fn new(format: KvFormat, heads: usize, head_size: usize, pool: PagePool) -> Self {
        Self { format, heads, head_size, pages: Vec::new(), pool }
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
        (self.heads * self.format.head_bytes(self.head_size)).div_ceil(Line::BYTES)
    }

    /// Bytes that `pages` take.
    pub fn bytes(&self, pages: usize) -> usize {
        pages * self.lines_of_page() * Line::BYTES
    }

    /// Number of pages.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// Bytes that [`Pages::own`] takes for pages `from..to`.
    pub fn missing(&self, from: usize, to: usize) -> usize {
        let shared = |page: usize| self.pages.get(page).is_none_or(|page| Arc::strong_count(page) > 1);
        self.bytes((from..to).filter(|&page| shared(page)).count())
    }

    /// Makes pages `from..to` this sequence's own: those that are missing are taken, those that are shared are copied.
    ///
    /// # Errors
    /// [`Error::PoolFull`].
    pub fn own(&mut self, from: usize, to: usize) -> Result<(), Error> {
        let lines = self.lines_of_page();
        for index in from..to {
            let Some(page) = self.pages.get_mut(index) else {
                self.pages.push(Arc::new(self.pool.take(lines)?));
                continue;
            };
            if Arc::get_mut(page).is_none() {
                let mut copy = self.pool.take(lines)?;
                copy.bytes_mut().copy_from_slice(page.bytes());
                *page = Arc::new(copy);
            }
        }
        Ok(())
    }

    /// Gives back all pages but the first `pages`.
    pub fn keep(&mut self, pages: usize) {
        self.pages.truncate(pages);
    }

    /// A head's keys and values in page `page`.
    pub fn head(&self, page: usize, head: usize) -> (&[u8], &[u8]) {
        let each = self.format.head_bytes(self.head_size);
        self.pages[page].bytes()[head * each..][..each].split_at(self.format.key_bytes(self.head_size))
    }

    /// Stores one position, heads × head size of either, at place `place` of page `page`.
    ///
    /// Panics unless the page is this sequence's own.
    pub fn put(&mut self, page: usize, place: usize, keys: &[f32], values: &[f32], row: &mut Row) {
        let (format, head_size) = (self.format, self.head_size);
        let (each, panel) = (format.head_bytes(head_size), format.panel_bytes(head_size));
        let bytes = Arc::get_mut(&mut self.pages[page]).expect("a page of its own").bytes_mut();
        let heads = keys.chunks_exact(head_size).zip(values.chunks_exact(head_size));
        for ((key, value), page) in heads.zip(bytes.chunks_exact_mut(each)) {
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
