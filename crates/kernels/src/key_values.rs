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
//! alike, so that products stay. Queries look most at what stands near them and at the first positions, so that a query sees
//! the first page and its own in `q8_0` (a window of recent ones apart: KIVI, arXiv 2402.02750; the first ones: arXiv
//! 2309.17453): two pages, however long the sequence.
//!
//! A clone shares all pages; the first of both that appends to a shared page takes a copy of it.

mod pages;
mod pool;

use crate::Error;
use crate::kv_format::{KvFormat, PAGE};
use pages::{Pages, Row};
pub use pool::PagePool;

/// Keys and values of the positions so far.
///
/// Invariant: what one position stores depends on it alone, and how a query sees it on where the two stand.
#[derive(Clone, Debug)]
pub struct KeyValues {
    positions: usize,
    /// All pages, but the first one where that is `fine`.
    pages: Pages,
    fine: Option<Fine>,
}

/// The first page, and the one of the last position, in a format with more bits.
#[derive(Clone, Debug)]
struct Fine {
    pages: Pages,
    /// Which page is the second one here; 0 where there is none yet.
    last: usize,
}

impl Fine {
    /// Where page `page` is, if it is here.
    fn place_of(&self, page: usize) -> Option<usize> {
        match page {
            0 => Some(0),
            page if page == self.last => Some(1),
            _ => None,
        }
    }
}

/// A head's keys and values in a page.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub format: KvFormat,
    pub keys: &'a [u8],
    pub values: &'a [u8],
}

impl KeyValues {
    /// None yet.
    ///
    /// # Errors
    /// [`Error::HeadSize`] where the format's blocks don't divide a head.
    pub fn new(format: KvFormat, heads: usize, head_size: usize) -> Result<Self, Error> {
        Self::in_pool(format, heads, head_size, &PagePool::unlimited())
    }

    /// The same, with pages of `pool`.
    ///
    /// # Errors
    /// As [`KeyValues::new`].
    pub fn in_pool(format: KvFormat, heads: usize, head_size: usize, pool: &PagePool) -> Result<Self, Error> {
        format.check(head_size)?;
        let pages = |format| Pages::new(format, heads, head_size, pool.clone());
        let fine = format.fine().map(|fine| Fine { pages: pages(fine), last: 0 });
        Ok(Self { positions: 0, pages: pages(format), fine })
    }

    /// How they are stored.
    pub fn format(&self) -> KvFormat {
        self.pages.format()
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
        self.pages.heads()
    }

    /// Numbers of a head.
    pub(crate) fn head_size(&self) -> usize {
        self.pages.head_size()
    }

    /// How many of so many pages are stored in the format itself, and how many in more bits.
    fn stored(&self, pages: usize) -> [usize; 2] {
        let first = self.first();
        [pages.saturating_sub(first), if first > 0 { pages.min(2) } else { 0 }]
    }

    fn bytes_of(&self, [pages, fine]: [usize; 2]) -> usize {
        self.pages.bytes(pages) + self.fine.as_ref().map_or(0, |all| all.pages.bytes(fine))
    }

    /// Bytes that `positions` take: whole pages.
    pub fn bytes(&self, positions: usize) -> usize {
        self.bytes_of(self.stored(positions.div_ceil(PAGE)))
    }

    /// Bytes that the last of `positions` reads, whole pages: of its own page it sees one of two copies.
    pub fn read_bytes(&self, positions: usize) -> usize {
        let [pages, fine] = self.stored(positions.div_ceil(PAGE));
        self.bytes_of([pages - fine.saturating_sub(1), fine])
    }

    /// Pages that the next `count` positions are written to: in the format itself, and in more bits.
    fn written(&self, count: usize) -> [std::ops::Range<usize>; 2] {
        if count == 0 {
            return [0..0, 0..0];
        }
        let (first_page, end) = (self.positions / PAGE, (self.positions + count).div_ceil(PAGE));
        let first = self.first();
        let fine = if self.fine.is_some() { first_page.min(1)..end.min(2) } else { 0..0 };
        [first_page.saturating_sub(first)..end.saturating_sub(first), fine]
    }

    /// Bytes of pages that [`KeyValues::prepare`] takes.
    pub fn missing(&self, count: usize) -> usize {
        let [pages, fine] = self.written(count);
        let of_fine = self.fine.as_ref().map_or(0, |all| all.pages.missing(fine.start, fine.end));
        self.pages.missing(pages.start, pages.end) + of_fine
    }

    /// Takes the memory for the next `count` positions; a page that is shared becomes a copy.
    ///
    /// # Errors
    /// [`Error::PoolFull`]; positions are then as they were.
    pub fn prepare(&mut self, count: usize) -> Result<(), Error> {
        let [pages, fine] = self.written(count);
        self.pages.own(pages.start, pages.end)?;
        match &mut self.fine {
            Some(all) => all.pages.own(fine.start, fine.end),
            None => Ok(()),
        }
    }

    /// Takes copies of all pages that are shared.
    ///
    /// # Errors
    /// [`Error::PoolFull`].
    pub fn unshare(&mut self) -> Result<(), Error> {
        let [pages, fine] = self.stored(self.positions.div_ceil(PAGE));
        self.pages.own(0, pages)?;
        match &mut self.fine {
            Some(all) => all.pages.own(0, fine),
            None => Ok(()),
        }
    }

    /// Gives back pages that no position needs.
    pub fn give_back(&mut self) {
        let [pages, fine] = self.stored(self.positions.div_ceil(PAGE));
        self.pages.keep(pages);
        if let Some(all) = &mut self.fine {
            all.pages.keep(fine);
        }
    }

    /// Forgets everything from position `positions` on. A sequence can go on inside the page that was its last one, and inside
    /// the first; where the format holds these in more bits, it goes back to where a page begins in any other:
    /// [`KeyValues::len`] tells what is left.
    pub fn truncate(&mut self, positions: usize) {
        let positions = positions.min(self.positions);
        let (page, place) = (positions / PAGE, positions % PAGE);
        let gone = place > 0 && self.fine.as_ref().is_some_and(|fine| fine.place_of(page).is_none());
        self.positions = if gone { page * PAGE } else { positions };
        self.give_back();
    }

    /// The first page that `pages` has.
    fn first(&self) -> usize {
        usize::from(self.fine.is_some())
    }

    /// How many positions may be appended before their queries look at them.
    pub(crate) fn room(&self) -> usize {
        if self.fine.is_some() { PAGE - self.positions % PAGE } else { usize::MAX }
    }

    /// A head's keys and values in a page, as queries of the last page see them.
    pub(crate) fn page(&self, page: usize, head: usize) -> Seen<'_> {
        let fine = self.fine.as_ref().and_then(|fine| Some((&fine.pages, fine.place_of(page)?)));
        let (pages, place) = fine.unwrap_or_else(|| (&self.pages, page - self.first()));
        let (keys, values) = pages.head(place, head);
        Seen { format: pages.format(), keys, values }
    }

    /// Appends positions: `keys` and `values` are n × heads × head size.
    ///
    /// Panics unless both are whole rows and as many, and where a pool is full that was not asked before
    /// ([`KeyValues::prepare`]).
    pub(crate) fn append(&mut self, keys: &[f32], values: &[f32]) {
        let head_size = self.head_size();
        let width = self.heads() * head_size;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "rows of {width}");
        let first = self.first();
        self.prepare(keys.len() / width).expect("memory for the positions");
        let (mut row, mut turned) = (Row::new(head_size), Vec::new());
        for (keys, values) in keys.chunks_exact(width).zip(values.chunks_exact(width)) {
            let (page, place) = (self.positions / PAGE, self.positions % PAGE);
            let keys = if self.format().turns() {
                turned.clear();
                turned.extend_from_slice(keys);
                turned.chunks_exact_mut(head_size).for_each(turn);
                &turned[..]
            } else {
                keys
            };
            if page >= first {
                self.pages.put(page - first, place, keys, values, &mut row);
            }
            if let Some(fine) = &mut self.fine {
                fine.last = page;
                let at = page.min(1);
                fine.pages.put(at, place, keys, values, &mut row);
            }
            self.positions += 1;
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

    #[test]
    fn what_is_forgotten_reaches_back_to_the_page_where_its_bits_are_gone() {
        let (mut coarse, mut fine) =
            [KvFormat::F16, KvFormat::Q4_0].map(|format| KeyValues::new(format, 1, 32).unwrap()).into();
        for (held, to, left) in [
            (200, 200, 200),
            (200, 193, 193),
            (200, 192, 192),
            (200, 150, 128),
            (200, 40, 40),
            (128, 100, 100),
        ] {
            for (all, left) in [(&mut coarse, to), (&mut fine, left)] {
                all.truncate(0);
                all.append(&vec![0.5; held * 32], &vec![0.5; held * 32]);
                all.truncate(to);
                assert_eq!(all.len(), left, "{held} to {to}, {:?}", all.format());
            }
        }
    }

    #[test]
    fn memory_is_what_is_told() {
        for &format in KvFormat::ALL {
            for positions in [0, 1, 64, 65, 200] {
                let mut held = KeyValues::new(format, 3, 96).unwrap();
                let needed = held.missing(positions);
                held.prepare(positions).unwrap();
                assert_eq!((needed, held.missing(positions)), (held.bytes(positions), 0));
                held.append(&vec![0.5; positions * 288], &vec![0.5; positions * 288]);
                let fine = held.fine.as_ref().map_or(0, |fine| fine.pages.bytes(fine.pages.count()));
                let taken = held.pages.bytes(held.pages.count()) + fine;
                assert_eq!(taken, held.bytes(positions), "{format:?}, {positions}");
            }
        }
    }

    /// Shared pages are counted once, and a pool that is full refuses without a change.
    #[test]
    fn a_pools_books_balance() {
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
            // Free pages of this size give way to larger ones.
            let mut large = KeyValues::in_pool(format, 6, 32, &pool).unwrap();
            large.prepare(64).unwrap();
            large.append(&vec![0.5; 64 * 192], &vec![0.5; 64 * 192]);
            assert_eq!(pool.held(), large.bytes(64), "{format:?}");
        }
    }
}
