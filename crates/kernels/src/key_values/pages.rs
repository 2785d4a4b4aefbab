//! Pages of keys and values in one format. The comment in `key_values.rs` describes the layout.
//!
//! Invariant: the stored bytes of a position depend only on the keys and values of this position.
//!
//! Not covered here: which pages are stored, and which pages a query reads; see `key_values.rs`.

use crate::Error;
use crate::kv_format::{BLOCK, KvFormat, LANES, PAGE};
use crate::page_pool::{Line, Page, PagePool};
use half::f16;
use half::slice::HalfFloatSliceExt;
use kvant_core::{Encoder, Format, format};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A list of pages, with all heads of one layer. A page keeps its index when pages before it are dropped. Clones share
/// the pages, but not the reserve. Before a write to a shared page, the page is copied.
#[derive(Debug)]
pub(super) struct Pages {
    format: KvFormat,
    heads: usize,
    head_size: usize,
    /// Number of pages that were dropped from the front of the list.
    dropped: usize,
    pages: VecDeque<Arc<Page>>,
    /// Pages for later writes.
    reserve: Vec<Page>,
    pool: PagePool,
}

impl Clone for Pages {
    fn clone(&self) -> Self {
        Self { pages: self.pages.clone(), pool: self.pool.clone(), reserve: Vec::new(), ..*self }
    }
}

/// The pages that the next positions need. Indices are those of the list.
pub(super) struct Need {
    /// The first page that is kept. The pages before it are dropped.
    pub kept: usize,
    /// The pages to which the positions are written.
    pub written: Range<usize>,
    /// The largest number of pages that are stored at the same time.
    pub most: usize,
}

impl Pages {
    /// Creates an empty list. `head_size` is the number of stored elements ([`KvFormat::stored_head_size`]).
    pub fn new(format: KvFormat, heads: usize, head_size: usize, pool: PagePool) -> Self {
        let (pages, reserve) = (VecDeque::new(), Vec::new());
        Self { format, heads, head_size, dropped: 0, pages, reserve, pool }
    }

    /// Returns a list without pages, of the same shape.
    pub fn empty(&self) -> Self {
        Self::new(self.format, self.heads, self.head_size, self.pool.clone())
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

    /// Number of pages that were dropped from the front of the list.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Returns the number of cache lines of a page.
    fn lines_of_page(&self) -> usize {
        (self.heads * self.format.head_bytes(self.head_size)).div_ceil(Line::BYTES)
    }

    /// Returns the bytes of `pages` pages.
    pub fn bytes(&self, pages: usize) -> usize {
        pages * self.lines_of_page() * Line::BYTES
    }

    /// Number of pages, with the reserve.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.pages.len() + self.reserve.len()
    }

    /// Returns the number of pages that `need` takes in addition to the pages of the list and the reserve. This is an
    /// upper bound: of the stored pages, only those that the first append drops count as free.
    fn missing_pages(&self, need: &Need) -> usize {
        let index = |page: usize| page.saturating_sub(self.dropped).min(self.pages.len());
        let is_shared = |page: &Arc<Page>| Arc::strong_count(page) > 1;
        let free = self.pages.range(..index(need.kept)).filter(|page| !is_shared(page)).count();
        // Only the first written page can be a stored one.
        let first = self.pages.get(index(need.written.start));
        let copies = usize::from(!need.written.is_empty() && first.is_some_and(is_shared));
        let new = need.written.end.saturating_sub(self.dropped + self.pages.len());
        (copies + new.min(need.most)).saturating_sub(free + self.reserve.len())
    }

    /// Returns the bytes that [`Pages::prepare`] would allocate for `need`.
    pub fn missing(&self, need: &Need) -> usize {
        self.bytes(self.missing_pages(need))
    }

    /// Allocates the pages that `need` takes.
    ///
    /// # Errors
    /// [`Error::PoolFull`] if the pool does not have enough free memory.
    pub fn prepare(&mut self, need: &Need) -> Result<(), Error> {
        let lines = self.lines_of_page();
        for _ in 0..self.missing_pages(need) {
            self.reserve.push(self.pool.take(lines)?);
        }
        Ok(())
    }

    /// The number of pages in the reserve.
    pub fn reserve(&self) -> usize {
        self.reserve.len()
    }

    /// Copies all shared pages.
    ///
    /// # Errors
    /// [`Error::PoolFull`] if the pool does not have enough free memory.
    pub fn unshare(&mut self) -> Result<(), Error> {
        let lines = self.lines_of_page();
        for page in &mut self.pages {
            if Arc::get_mut(page).is_none() {
                *page = copy(page, self.pool.take(lines)?);
            }
        }
        Ok(())
    }

    /// Drops the pages before page `kept`. A page that no clone shares moves to the reserve.
    pub fn drop_before(&mut self, kept: usize) {
        while self.dropped < kept
            && let Some(page) = self.pages.pop_front()
        {
            self.dropped += 1;
            self.reserve.extend(Arc::into_inner(page));
        }
    }

    /// Keeps only the pages before page `end`, and returns the others and the reserve to the pool.
    pub fn truncate(&mut self, end: usize) {
        self.pages.truncate(end.saturating_sub(self.dropped));
        if self.pages.is_empty() {
            self.dropped = self.dropped.min(end);
        }
        self.reserve.clear();
    }

    /// Returns the reserve to the pool, except `pages` pages.
    pub fn give_back(&mut self, pages: usize) {
        self.reserve.truncate(pages);
    }

    /// Returns the bytes of page `page` for a write: of a new page, or of a page that no clone shares.
    ///
    /// Panics if the page is neither stored nor the next page, or if it is not prepared ([`Pages::prepare`]).
    fn writable(&mut self, page: usize) -> &mut [u8] {
        let index = page - self.dropped;
        let is_new = index == self.pages.len();
        if is_new || Arc::get_mut(&mut self.pages[index]).is_none() {
            let free = self.reserve.pop().expect("a page in the reserve");
            if is_new {
                self.pages.push_back(Arc::new(free));
            } else {
                self.pages[index] = copy(&self.pages[index], free);
            }
        }
        Arc::get_mut(&mut self.pages[index]).expect("a page that is not shared").bytes_mut()
    }

    /// Returns the bytes of the keys and the bytes of the values of head `head` in page `page`.
    pub fn head(&self, page: usize, head: usize) -> (&[u8], &[u8]) {
        let head_bytes = self.format.head_bytes(self.head_size);
        self.pages[page - self.dropped].bytes()[head * head_bytes..][..head_bytes]
            .split_at(self.format.key_bytes(self.head_size))
    }

    /// Stores one position in page `page`. `offset` is the index of the position inside the page. `keys` and `values`
    /// have the shape heads × head size.
    ///
    /// Panics if the page is not prepared ([`Pages::prepare`]).
    pub fn store(
        &mut self,
        page: usize,
        offset: usize,
        keys: &[f32],
        values: &[f32],
        encoder: &mut PositionEncoder,
    ) {
        let (format, head_size) = (self.format, self.head_size);
        let (head_bytes, panel) = (format.head_bytes(head_size), format.panel_bytes(head_size));
        let bytes = self.writable(page);
        let heads = keys.chunks_exact(head_size).zip(values.chunks_exact(head_size));
        for ((key, value), page) in heads.zip(bytes.chunks_exact_mut(head_bytes)) {
            let (into_keys, into_values) = page.split_at_mut(format.key_bytes(head_size));
            let into_panel = &mut into_keys[offset / LANES * panel..][..panel];
            match format {
                KvFormat::F32 | KvFormat::F16 => {
                    encoder.store_key(format, key, offset % LANES, into_panel);
                    encoder.store_value(format, value, offset, into_values);
                }
                KvFormat::Q8_0 | KvFormat::Q4_0 => {
                    encoder.store_key_blocks(format, key, offset % LANES, into_panel);
                    encoder.store_value_blocks(format, value, offset, into_values);
                }
            }
        }
    }
}

/// Copies a page into another one.
fn copy(page: &Page, mut into: Page) -> Arc<Page> {
    into.bytes_mut().copy_from_slice(page.bytes());
    Arc::new(into)
}

/// Converts the keys or values of one head and one position to the stored format. The encoder keeps its buffers between
/// calls.
pub(super) struct PositionEncoder {
    /// The elements of the head, clamped to the range of `f16`.
    clamped: Vec<f32>,
    /// The clamped elements as `f16`.
    halves: Vec<f16>,
    /// The encoded blocks of the head, one after the other. A block has 32 elements.
    blocks: Vec<u8>,
}

impl PositionEncoder {
    pub fn new(head_size: usize) -> Self {
        Self { clamped: vec![0.0; head_size], halves: vec![f16::ZERO; head_size], blocks: Vec::new() }
    }

    /// Calls `put(i, bytes)` with the stored bytes of each element i of a head.
    fn for_each_float(&mut self, format: KvFormat, x: &[f32], mut put: impl FnMut(usize, &[u8])) {
        if format == KvFormat::F32 {
            x.iter().enumerate().for_each(|(i, x)| put(i, &x.to_le_bytes()));
        } else {
            // Values are clamped to the largest `f16`, because an infinity would make the results of all later tokens
            // invalid.
            const MAX_F16: f32 = 65_504.0;
            self.clamped.iter_mut().zip(x).for_each(|(kept, x)| *kept = x.clamp(-MAX_F16, MAX_F16));
            self.halves.convert_from_f32_slice(&self.clamped);
            self.halves.iter().enumerate().for_each(|(i, x)| put(i, &x.to_le_bytes()));
        }
    }

    /// Stores a key of floats in lane `lane` of a panel.
    fn store_key(&mut self, format: KvFormat, key: &[f32], lane: usize, panel: &mut [u8]) {
        self.for_each_float(format, key, |i, bytes| {
            panel[(i * LANES + lane) * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
        });
    }

    /// Stores a value of floats at offset `offset` of a page.
    fn store_value(&mut self, format: KvFormat, value: &[f32], offset: usize, values: &mut [u8]) {
        self.for_each_float(format, value, |i, bytes| {
            let at = i / LANES * PAGE * LANES + offset * LANES + i % LANES;
            values[at * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
        });
    }

    /// Encodes `x` in the block format that files use, and stores the blocks in `self.blocks`. Returns the bytes of a
    /// block.
    fn encode(&mut self, format: KvFormat, x: &[f32]) -> usize {
        let (block, encoder): (_, &dyn Encoder) = match format {
            KvFormat::Q8_0 => (format::Q8_0.block(), &format::Q8_0),
            _ => (format::Q4_0.block(), &format::Q4_0),
        };
        self.blocks.resize(x.len() / BLOCK * block.bytes, 0);
        encoder.encode(x, None, &mut self.blocks);
        block.bytes
    }

    /// Stores a quantized key in lane `lane` of a panel. The first two bytes of a block are the scale.
    fn store_key_blocks(&mut self, format: KvFormat, key: &[f32], lane: usize, panel: &mut [u8]) {
        let block_bytes = self.encode(format, key);
        let blocks = self.blocks.chunks_exact(block_bytes);
        let into = panel.chunks_exact_mut(2 * LANES + (block_bytes - 2) * LANES);
        for (block, into) in blocks.zip(into) {
            let (scales, codes) = into.split_at_mut(2 * LANES);
            scales[2 * lane..][..2].copy_from_slice(&block[..2]);
            for (i, code) in block[2..].iter().enumerate() {
                codes[i * LANES + lane] = *code;
            }
        }
    }

    /// Stores a quantized value at offset `offset` of a page. The first two bytes of a block are the scale.
    fn store_value_blocks(&mut self, format: KvFormat, value: &[f32], offset: usize, values: &mut [u8]) {
        let block_bytes = self.encode(format, value);
        let parts = values.chunks_exact_mut(format.part_bytes());
        for (block, part) in self.blocks.chunks_exact(block_bytes).zip(parts) {
            let (scales, codes) = part.split_at_mut(2 * PAGE);
            scales[2 * offset..][..2].copy_from_slice(&block[..2]);
            codes[offset * (block_bytes - 2)..][..block_bytes - 2].copy_from_slice(&block[2..]);
        }
    }
}
