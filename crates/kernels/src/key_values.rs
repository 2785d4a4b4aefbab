//! The KV cache of one layer and one sequence, laid out for attention.
//!
//! A page stores [`PAGE`] = 64 positions. For each head, the page has the keys, followed by the values:
//!
//! ```text
//! keys:    four panels of 16 positions; a panel is head size × 16 positions
//! values:  parts of 16 elements of the head; a part is 64 positions × 16 elements
//! q8_0:    8-bit codes; a block of 32 elements of a head shares one f16 scale; a value part has 32 elements;
//!          the scales come before the codes: 16 scales per block of a key panel, 64 scales per value part
//! q4_0:    like q8_0, but with 4-bit codes; elements i and i + 16 of a block share a byte
//! ```
//!
//! With this layout, one vector holds 16 scores or 16 elements of a result. Every sum adds its terms in the order of
//! the elements or in the order of the positions.
//!
//! Keys in `q4_0` are first rotated by a Hadamard matrix, which spreads outliers over the head. Queries are rotated by
//! the same matrix, so that the dot products do not change.
//!
//! Attention scores are largest for the positions near the query and for the first positions. So with `q4_0`, a query
//! reads the first page and its own page in `q8_0`. In a sequence of any length, these are at most two pages. Sources:
//! KIVI, arXiv 2402.02750, keeps recent positions in more bits; arXiv 2309.17453 describes the first positions.
//!
//! A clone shares all pages with the original. Before the clone or the original appends to a shared page, it copies the
//! page.
//!
//! A cache with a window ([`KeyValues::with_window`]) drops the pages that no later query reads. It keeps one page
//! more, so that the end of a sequence can move back to 64 positions before its largest length.

mod pages;

use crate::kv_format::{KvFormat, PAGE};
use crate::{Error, PagePool};
use pages::{Need, Pages, PositionEncoder};

/// The KV cache of one layer and one sequence.
///
/// Invariant: the stored bytes of a position depend only on the keys and values of this position. The format in which a
/// query reads a position depends only on this position and on the position of the query.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// Length of the sequence, with the positions that were dropped.
    positions: usize,
    /// The number of positions that a query reads, up to its own; `None` if it reads all positions.
    window: Option<usize>,
    /// Floats per head. The pages store [`KvFormat::stored_head_size`] elements.
    head_size: usize,
    /// The pages in the format of the cache. If `precise` is present, page 0 is stored only in `precise`, and this list
    /// begins with page 1.
    pages: Pages,
    /// The pages in a format with more bits, if the format of the cache needs them ([`KvFormat::precise`]).
    precise: Option<PrecisePages>,
}

/// The first page, and the page of the last position, in a format with more bits.
#[derive(Clone, Debug)]
struct PrecisePages {
    pages: Pages,
    /// Index in the sequence of the page that `pages[1]` stores; 0 if `pages[1]` is not used yet.
    last_page: usize,
}

impl PrecisePages {
    /// Returns the index in `pages` of page `page` of the sequence; `None` if `pages` does not store this page.
    fn index_of(&self, page: usize) -> Option<usize> {
        match page {
            0 => Some(0),
            page if page == self.last_page => Some(1),
            _ => None,
        }
    }
}

/// Keys and values of one head in one page.
#[derive(Clone, Copy)]
pub(crate) struct HeadPage<'a> {
    pub format: KvFormat,
    pub keys: &'a [u8],
    pub values: &'a [u8],
}

impl KeyValues {
    /// Creates an empty cache.
    pub fn new(format: KvFormat, heads: usize, head_size: usize) -> Self {
        Self::in_pool(format, heads, head_size, &PagePool::unlimited())
    }

    /// Creates an empty cache that takes its pages from `pool`.
    pub fn in_pool(format: KvFormat, heads: usize, head_size: usize, pool: &PagePool) -> Self {
        let pages =
            |format: KvFormat| Pages::new(format, heads, format.stored_head_size(head_size), pool.clone());
        let precise = format.precise().map(|precise| PrecisePages { pages: pages(precise), last_page: 0 });
        Self { positions: 0, window: None, head_size, pages: pages(format), precise }
    }

    /// Sets the number of positions that a query reads, up to its own. The cache may drop the positions before. Panics if
    /// the cache is not empty.
    #[must_use]
    pub fn with_window(self, window: Option<usize>) -> Self {
        assert!(self.is_empty(), "a window of an empty cache");
        Self { window, ..self }
    }

    /// The number of positions that a query reads, up to its own; `None` if it reads all positions.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    /// The storage format.
    pub fn format(&self) -> KvFormat {
        self.pages.format()
    }

    /// Length of the sequence, with the positions that were dropped behind the window.
    pub fn len(&self) -> usize {
        self.positions
    }

    /// Returns true if the sequence has no positions.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// Number of heads of keys and values.
    pub(crate) fn heads(&self) -> usize {
        self.pages.heads()
    }

    /// Floats per head.
    pub(crate) fn head_size(&self) -> usize {
        self.head_size
    }

    /// Elements per head in the pages.
    pub(crate) fn stored_head_size(&self) -> usize {
        self.pages.head_size()
    }

    /// Returns the bytes of two counts of pages: of pages in the format of the cache, and of pages with more bits.
    fn bytes_of(&self, [pages, precise]: [usize; 2]) -> usize {
        self.pages.bytes(pages) + self.precise.as_ref().map_or(0, |all| all.pages.bytes(precise))
    }

    /// Returns the largest number of bytes that the pages take while `positions` positions are appended to an empty
    /// cache, in appends of at most `at_once` positions.
    pub fn bytes(&self, positions: usize, at_once: usize) -> usize {
        let precise = self.precise.as_ref();
        let precise = precise.map(|all| PrecisePages { pages: all.pages.empty(), last_page: 0 });
        let empty = Self { positions: 0, pages: self.pages.empty(), precise, ..*self };
        empty.missing(positions, at_once)
    }

    /// Returns the bytes of the pages that the query of the last position reads, in a sequence with `positions`
    /// positions. The page of the last position may be stored in two formats, but the query reads only one of these two
    /// pages.
    pub fn read_bytes(&self, positions: usize) -> usize {
        let end = positions.div_ceil(PAGE);
        let read = first_read(self.window, positions.saturating_sub(1)) / PAGE..end;
        let is_precise = |page: &usize| self.precise.is_some() && (*page == 0 || *page + 1 == end);
        let precise = read.clone().filter(is_precise).count();
        self.bytes_of([read.len() - precise, precise])
    }

    /// Returns the pages of `pages`, and those of `precise`, that the next `count` positions need in appends of at most
    /// `at_once` positions.
    fn needs(&self, count: usize, at_once: usize) -> [Need; 2] {
        let (first, precise) = (self.first_page(), self.precise.is_some());
        let end = self.positions + count;
        let written = if count == 0 { 0..0 } else { self.positions / PAGE..end.div_ceil(PAGE) };
        // The positions from the first read to the last written one lie on at most this number of pages.
        let most = |window: usize| window.saturating_add(at_once.min(count) + 2 * (PAGE - 1) - 1) / PAGE;
        let coarse = Need {
            kept: self.first_kept(self.positions),
            written: written.start.saturating_sub(first)..written.end.saturating_sub(first),
            most: self.window.map_or(usize::MAX, |window| most(window).saturating_add(self.pages_before())),
        };
        let precise_pages = if precise { written.start.min(1)..written.end.min(2) } else { 0..0 };
        [coarse, Need { kept: 0, written: precise_pages, most: usize::MAX }]
    }

    /// Returns the bytes of the pages that [`KeyValues::prepare`] would allocate.
    pub fn missing(&self, count: usize, at_once: usize) -> usize {
        let [coarse, precise] = self.needs(count, at_once);
        self.pages.missing(&coarse) + self.precise.as_ref().map_or(0, |all| all.pages.missing(&precise))
    }

    /// Allocates the memory for the next `count` positions, which come in appends of at most `at_once` positions. If some
    /// of these positions belong to a shared page, this includes the memory for a copy of the page.
    ///
    /// # Errors
    /// [`Error::PoolFull`]; in this case the stored positions are unchanged.
    pub fn prepare(&mut self, count: usize, at_once: usize) -> Result<(), Error> {
        let [coarse, precise] = self.needs(count, at_once);
        self.pages.prepare(&coarse)?;
        self.precise.as_mut().map_or(Ok(()), |all| all.pages.prepare(&precise))
    }

    /// Copies all shared pages, so that no page is shared.
    ///
    /// # Errors
    /// [`Error::PoolFull`] if the pool does not have enough free memory.
    pub fn unshare(&mut self) -> Result<(), Error> {
        self.pages.unshare()?;
        self.precise.as_mut().map_or(Ok(()), |all| all.pages.unshare())
    }

    /// Returns the number of pages that are prepared and not used yet: in the format of the cache, and in more bits.
    pub fn reserve(&self) -> [usize; 2] {
        [self.pages.reserve(), self.precise.as_ref().map_or(0, |all| all.pages.reserve())]
    }

    /// Gives prepared memory back to the pool, except the pages of `reserve`.
    pub fn give_back(&mut self, [pages, precise]: [usize; 2]) {
        self.pages.give_back(pages);
        if let Some(all) = &mut self.precise {
            all.pages.give_back(precise);
        }
    }

    /// Number of pages that are kept before the page of the first read position. A cache with more precise pages may lose
    /// a whole page when it is truncated, so it keeps one page more.
    fn pages_before(&self) -> usize {
        1 + self.first_page()
    }

    /// Returns the index in `pages` of the first page that is kept if position `position` is the next one.
    fn first_kept(&self, position: usize) -> usize {
        let read = first_read(self.window, position) / PAGE;
        read.saturating_sub(self.pages_before() + self.first_page())
    }

    /// True if `pages` still has the pages that the query of position `position` reads.
    pub(crate) fn has_read_pages(&self, position: usize) -> bool {
        let first_read = first_read(self.window, position) / PAGE;
        first_read.saturating_sub(self.first_page()) >= self.pages.dropped()
    }

    /// Returns the number of positions, at most `positions`, to which [`KeyValues::truncate`] truncates the cache.
    ///
    /// Some formats store the first page and the last page in more bits. With such a format, the sequence can end
    /// inside a page only if this page is the first page or the current last page. Otherwise the whole page is removed.
    /// If a query at the end would read a dropped page, the result is 0.
    pub fn end_within(&self, positions: usize) -> usize {
        let positions = positions.min(self.positions);
        let (page, offset) = (positions / PAGE, positions % PAGE);
        let lost =
            offset > 0 && self.precise.as_ref().is_some_and(|precise| precise.index_of(page).is_none());
        let positions = if lost { page * PAGE } else { positions };
        if self.has_read_pages(positions) { positions } else { 0 }
    }

    /// Removes position `positions` and all later positions, or more of them ([`KeyValues::end_within`]).
    /// [`KeyValues::len`] returns the number of remaining positions.
    pub fn truncate(&mut self, positions: usize) {
        self.positions = self.end_within(positions);
        let end = self.positions.div_ceil(PAGE);
        self.pages.truncate(end.saturating_sub(self.first_page()));
        if let Some(all) = &mut self.precise {
            all.pages.truncate(end.min(2));
        }
    }

    /// Returns the index in the sequence of the first page that `pages` stores: 1 if `precise` stores page 0, otherwise
    /// 0.
    fn first_page(&self) -> usize {
        usize::from(self.precise.is_some())
    }

    /// Returns the maximum number of positions that may be appended before the queries of these positions must run.
    pub fn room(&self) -> usize {
        if self.precise.is_some() { PAGE - self.positions % PAGE } else { usize::MAX }
    }

    /// Returns the keys and values of head `head` in page `page`. Their format is the format in which a query of the
    /// last page reads page `page`.
    pub(crate) fn page(&self, page: usize, head: usize) -> HeadPage<'_> {
        let precise =
            self.precise.as_ref().and_then(|precise| Some((&precise.pages, precise.index_of(page)?)));
        let (pages, index) = precise.unwrap_or_else(|| (&self.pages, page - self.first_page()));
        let (keys, values) = pages.head(index, head);
        HeadPage { format: pages.format(), keys, values }
    }

    /// Appends n positions. `keys` and `values` have the shape n × heads × head size. With a window, this first drops
    /// pages that no query reads any more.
    ///
    /// Panics unless `keys` and `values` have the same length, and this length is a multiple of heads × head size. Also
    /// panics if the pool is full. To avoid this panic, call [`KeyValues::prepare`] first.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) {
        let head_size = self.head_size();
        let width = self.heads() * head_size;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "rows of {width}");
        let first = self.first_page();
        let count = keys.len() / width;
        self.prepare(count, count).expect("memory for the positions");
        self.pages.drop_before(self.first_kept(self.positions));
        let stored_size = self.stored_head_size();
        let (mut encoder, mut stored) = (PositionEncoder::new(stored_size), [Vec::new(), Vec::new()]);
        for (keys, values) in keys.chunks_exact(width).zip(values.chunks_exact(width)) {
            let (page, offset) = (self.positions / PAGE, self.positions % PAGE);
            let rotates = self.format().rotates_keys();
            let (keys, values) = if rotates || stored_size != head_size {
                for (stored, row) in stored.iter_mut().zip([keys, values]) {
                    stored.clear();
                    for head in row.chunks_exact(head_size) {
                        stored.extend_from_slice(head);
                        stored.resize(stored.len().next_multiple_of(stored_size), 0.0);
                    }
                }
                if rotates {
                    stored[0].chunks_exact_mut(stored_size).for_each(rotate_head);
                }
                (&stored[0][..], &stored[1][..])
            } else {
                (keys, values)
            };
            if page >= first {
                self.pages.store(page - first, offset, keys, values, &mut encoder);
            }
            if let Some(precise) = &mut self.precise {
                precise.last_page = page;
                let index = page.min(1);
                precise.pages.store(index, offset, keys, values, &mut encoder);
            }
            self.positions += 1;
        }
    }
}

/// Returns the first position that the query of position `position` reads.
pub(crate) fn first_read(window: Option<usize>, position: usize) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Multiplies a head by an orthonormal Hadamard matrix. The matrix is its own inverse. Its size is the largest power of
/// two that divides the head size. If the head size is not a power of two, the head is divided into pieces of this
/// size, and each piece is multiplied by the matrix.
pub(crate) fn rotate_head(head: &mut [f32]) {
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
    fn rotation_keeps_dot_products_and_is_its_own_inverse() {
        let a: Vec<f32> = (0..96).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..96).map(|i| (i as f32 * 0.71).cos()).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (mut c, mut d) = (a.clone(), b.clone());
        rotate_head(&mut c);
        rotate_head(&mut d);
        assert!((dot(&a, &b) - dot(&c, &d)).abs() < 1e-4);
        assert!(a.iter().zip(&c).any(|(a, c)| (a - c).abs() > 0.1));
        rotate_head(&mut c);
        assert!(a.iter().zip(&c).all(|(a, c)| (a - c).abs() < 1e-5));
    }

    #[test]
    fn truncate_removes_the_whole_page_if_its_precise_copy_is_lost() {
        let (mut coarse, mut precise) =
            [KvFormat::F16, KvFormat::Q4_0].map(|format| KeyValues::new(format, 1, 32)).into();
        for (held, to, left) in [
            (200, 200, 200),
            (200, 193, 193),
            (200, 192, 192),
            (200, 150, 128),
            (200, 40, 40),
            (128, 100, 100),
        ] {
            for (all, left) in [(&mut coarse, to), (&mut precise, left)] {
                all.truncate(0);
                all.append(&vec![0.5; held * 32], &vec![0.5; held * 32]);
                all.truncate(to);
                assert_eq!(all.len(), left, "{held} to {to}, {:?}", all.format());
            }
        }
    }

    #[test]
    fn reported_memory_is_the_allocated_memory() {
        for &format in KvFormat::ALL {
            for positions in [0, 1, 64, 65, 200] {
                let mut held = KeyValues::new(format, 3, 96);
                let needed = held.missing(positions, positions);
                held.prepare(positions, positions).unwrap();
                let bytes = held.bytes(positions, positions);
                assert_eq!((needed, held.missing(positions, positions)), (bytes, 0));
                held.append(&vec![0.5; positions * 288], &vec![0.5; positions * 288]);
                let precise =
                    held.precise.as_ref().map_or(0, |precise| precise.pages.bytes(precise.pages.count()));
                let taken = held.pages.bytes(held.pages.count()) + precise;
                assert_eq!(taken, bytes, "{format:?}, {positions}");
            }
        }
    }

    /// A page that several sequences share counts one time. A full pool returns an error and changes nothing.
    #[test]
    fn a_pool_counts_its_pages() {
        for &format in KvFormat::ALL {
            let rows = |count: usize| vec![0.5; count * 64];
            let page = KeyValues::new(format, 2, 32).bytes(64, 64);
            let pool = PagePool::new(6 * page);
            let mut first = KeyValues::in_pool(format, 2, 32, &pool);
            first.append(&rows(100), &rows(100));
            let held = pool.held();
            assert_eq!(held, first.bytes(100, 100), "{format:?}");
            let mut second = first.clone();
            assert_eq!(pool.held(), held, "{format:?}: a clone takes nothing");
            second.append(&rows(1), &rows(1));
            assert!(pool.held() > held, "{format:?}: a shared page is copied");
            assert_eq!(second.missing(1, 1), 0, "{format:?}");
            let held = pool.held();
            let refused = second.missing(10_000, 10_000);
            assert!(pool.check(refused).is_err() && pool.check(0).is_ok(), "{format:?}");
            assert!(second.prepare(10_000, 10_000).is_err(), "{format:?}");
            second.give_back([0; 2]);
            assert_eq!((pool.held(), second.len()), (held, 101), "{format:?}");
            drop(first);
            second.truncate(0);
            assert_eq!(pool.held(), 0, "{format:?}");
            // The pool frees unused pages of this size to make room for larger pages.
            let mut large = KeyValues::in_pool(format, 6, 32, &pool);
            large.prepare(64, 64).unwrap();
            large.append(&vec![0.5; 64 * 192], &vec![0.5; 64 * 192]);
            assert_eq!(pool.held(), large.bytes(64, 64), "{format:?}");
        }
    }
}
