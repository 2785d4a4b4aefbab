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

mod pages;

use crate::kv_format::{KvFormat, PAGE};
use crate::{Error, PagePool};
use pages::{Pages, PositionEncoder};

/// The KV cache of one layer and one sequence.
///
/// Invariant: the stored bytes of a position depend only on the keys and values of this position. The format in which a
/// query reads a position depends only on this position and on the position of the query.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// Number of stored positions.
    positions: usize,
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
    ///
    /// # Errors
    /// [`Error::HeadSize`] if the head size is not a multiple of the format's block size.
    pub fn new(format: KvFormat, heads: usize, head_size: usize) -> Result<Self, Error> {
        Self::in_pool(format, heads, head_size, &PagePool::unlimited())
    }

    /// Creates an empty cache that takes its pages from `pool`.
    ///
    /// # Errors
    /// [`Error::HeadSize`], as for [`KeyValues::new`].
    pub fn in_pool(format: KvFormat, heads: usize, head_size: usize, pool: &PagePool) -> Result<Self, Error> {
        format.check(head_size)?;
        let pages = |format| Pages::new(format, heads, head_size, pool.clone());
        let precise = format.precise().map(|precise| PrecisePages { pages: pages(precise), last_page: 0 });
        Ok(Self { positions: 0, pages: pages(format), precise })
    }

    /// The storage format.
    pub fn format(&self) -> KvFormat {
        self.pages.format()
    }

    /// Number of stored positions.
    pub fn len(&self) -> usize {
        self.positions
    }

    /// Returns true if no position is stored.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// Number of heads of keys and values.
    pub(crate) fn heads(&self) -> usize {
        self.pages.heads()
    }

    /// Floats per head.
    pub(crate) fn head_size(&self) -> usize {
        self.pages.head_size()
    }

    /// Returns two counts for the first `pages` pages of the sequence: the number of pages that are stored in the
    /// format of the cache, and the number of pages that are stored in more bits.
    fn page_counts(&self, pages: usize) -> [usize; 2] {
        let first = self.first_page();
        [pages.saturating_sub(first), if first > 0 { pages.min(2) } else { 0 }]
    }

    /// Returns the bytes of two counts of pages, as [`KeyValues::page_counts`] returns them.
    fn bytes_of(&self, [pages, precise]: [usize; 2]) -> usize {
        self.pages.bytes(pages) + self.precise.as_ref().map_or(0, |all| all.pages.bytes(precise))
    }

    /// Returns the bytes of all pages of a sequence with `positions` positions.
    pub fn bytes(&self, positions: usize) -> usize {
        self.bytes_of(self.page_counts(positions.div_ceil(PAGE)))
    }

    /// Returns the bytes of the pages that the query of the last position reads, in a sequence with `positions`
    /// positions. The page of the last position may be stored in two formats, but the query reads only one of these two
    /// pages.
    pub fn read_bytes(&self, positions: usize) -> usize {
        let [pages, precise] = self.page_counts(positions.div_ceil(PAGE));
        self.bytes_of([pages - precise.saturating_sub(1), precise])
    }

    /// Returns the index ranges of the pages to which the next `count` positions are written: first the range in
    /// `pages`, followed by the range in `precise`.
    fn written_ranges(&self, count: usize) -> [std::ops::Range<usize>; 2] {
        if count == 0 {
            return [0..0, 0..0];
        }
        let (begin, end) = (self.positions / PAGE, (self.positions + count).div_ceil(PAGE));
        let first = self.first_page();
        let precise = if self.precise.is_some() { begin.min(1)..end.min(2) } else { 0..0 };
        [begin.saturating_sub(first)..end.saturating_sub(first), precise]
    }

    /// Returns the bytes of the pages that [`KeyValues::prepare`] would allocate for `count` positions.
    pub fn missing(&self, count: usize) -> usize {
        let [pages, precise] = self.written_ranges(count);
        let of_precise = self.precise.as_ref().map_or(0, |all| all.pages.missing(precise.start, precise.end));
        self.pages.missing(pages.start, pages.end) + of_precise
    }

    /// Allocates the memory for the next `count` positions. If some of these positions belong to a shared page, the
    /// page is copied.
    ///
    /// # Errors
    /// [`Error::PoolFull`]; in this case the stored positions are unchanged.
    pub fn prepare(&mut self, count: usize) -> Result<(), Error> {
        let [pages, precise] = self.written_ranges(count);
        self.pages.make_unique(pages.start, pages.end)?;
        match &mut self.precise {
            Some(all) => all.pages.make_unique(precise.start, precise.end),
            None => Ok(()),
        }
    }

    /// Copies all shared pages, so that no page is shared.
    ///
    /// # Errors
    /// [`Error::PoolFull`] if the pool does not have enough free memory.
    pub fn unshare(&mut self) -> Result<(), Error> {
        let [pages, precise] = self.page_counts(self.positions.div_ceil(PAGE));
        self.pages.make_unique(0, pages)?;
        match &mut self.precise {
            Some(all) => all.pages.make_unique(0, precise),
            None => Ok(()),
        }
    }

    /// Gives pages that contain no stored position back to the pool.
    pub fn give_back(&mut self) {
        let [pages, precise] = self.page_counts(self.positions.div_ceil(PAGE));
        self.pages.truncate(pages);
        if let Some(all) = &mut self.precise {
            all.pages.truncate(precise);
        }
    }

    /// Removes position `positions` and all later positions.
    ///
    /// Some formats store the first page and the last page in more bits. With such a format, the sequence can end
    /// inside a page only if this page is the first page or the current last page. Otherwise the whole page is removed.
    /// [`KeyValues::len`] returns the number of remaining positions.
    pub fn truncate(&mut self, positions: usize) {
        let positions = positions.min(self.positions);
        let (page, offset) = (positions / PAGE, positions % PAGE);
        let lost =
            offset > 0 && self.precise.as_ref().is_some_and(|precise| precise.index_of(page).is_none());
        self.positions = if lost { page * PAGE } else { positions };
        self.give_back();
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

    /// Appends n positions. `keys` and `values` have the shape n × heads × head size.
    ///
    /// Panics unless `keys` and `values` have the same length, and this length is a multiple of heads × head size. Also
    /// panics if the pool is full. To avoid this panic, call [`KeyValues::prepare`] first.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) {
        let head_size = self.head_size();
        let width = self.heads() * head_size;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "rows of {width}");
        let first = self.first_page();
        self.prepare(keys.len() / width).expect("memory for the positions");
        let (mut encoder, mut rotated) = (PositionEncoder::new(head_size), Vec::new());
        for (keys, values) in keys.chunks_exact(width).zip(values.chunks_exact(width)) {
            let (page, offset) = (self.positions / PAGE, self.positions % PAGE);
            let keys = if self.format().rotates_keys() {
                rotated.clear();
                rotated.extend_from_slice(keys);
                rotated.chunks_exact_mut(head_size).for_each(rotate_head);
                &rotated[..]
            } else {
                keys
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
            [KvFormat::F16, KvFormat::Q4_0].map(|format| KeyValues::new(format, 1, 32).unwrap()).into();
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
                let mut held = KeyValues::new(format, 3, 96).unwrap();
                let needed = held.missing(positions);
                held.prepare(positions).unwrap();
                assert_eq!((needed, held.missing(positions)), (held.bytes(positions), 0));
                held.append(&vec![0.5; positions * 288], &vec![0.5; positions * 288]);
                let precise =
                    held.precise.as_ref().map_or(0, |precise| precise.pages.bytes(precise.pages.count()));
                let taken = held.pages.bytes(held.pages.count()) + precise;
                assert_eq!(taken, held.bytes(positions), "{format:?}, {positions}");
            }
        }
    }

    /// A page that several sequences share counts one time. A full pool returns an error and changes nothing.
    #[test]
    fn a_pool_counts_its_pages() {
        for &format in KvFormat::ALL {
            let rows = |count: usize| vec![0.5; count * 64];
            let page = KeyValues::new(format, 2, 32).unwrap().bytes(64);
            let pool = PagePool::new(6 * page);
            let mut first = KeyValues::in_pool(format, 2, 32, &pool).unwrap();
            first.append(&rows(100), &rows(100));
            let held = pool.held();
            assert_eq!(held, first.bytes(100), "{format:?}");
            let mut second = first.clone();
            assert_eq!(pool.held(), held, "{format:?}: a clone takes nothing");
            second.append(&rows(1), &rows(1));
            assert!(pool.held() > held, "{format:?}: a shared page is copied");
            assert_eq!(second.missing(1), 0, "{format:?}");
            let held = pool.held();
            let refused = second.missing(10_000);
            assert!(pool.check(refused).is_err() && pool.check(0).is_ok(), "{format:?}");
            assert!(second.prepare(10_000).is_err(), "{format:?}");
            second.give_back();
            assert_eq!((pool.held(), second.len()), (held, 101), "{format:?}");
            drop(first);
            second.truncate(0);
            assert_eq!(pool.held(), 0, "{format:?}");
            // The pool frees unused pages of this size to make room for larger pages.
            let mut large = KeyValues::in_pool(format, 6, 32, &pool).unwrap();
            large.prepare(64).unwrap();
            large.append(&vec![0.5; 64 * 192], &vec![0.5; 64 * 192]);
            assert_eq!(pool.held(), large.bytes(64), "{format:?}");
        }
    }
}
