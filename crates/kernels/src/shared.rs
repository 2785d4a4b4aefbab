//! A mutable slice that tasks of one parallel run share, each writing its own part.

use std::marker::PhantomData;

/// A mutable slice cut into parts at run time by tasks that promise not to overlap.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for `&mut [T]` whose parts go to different threads, which `T: Send` allows; what makes the parts
// disjoint is the contract of `part`.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), owner: PhantomData }
    }

    /// `count` elements from `at` on. Panics if they lie outside.
    ///
    /// # Safety
    /// While the result lives, no other part that overlaps it may exist.
    #[allow(clippy::mut_from_ref, reason = "handing out disjoint parts from a shared borrow is the purpose")]
    pub unsafe fn part(&self, at: usize, count: usize) -> &mut [T] {
        assert!(at <= self.length && count <= self.length - at, "a part lies inside its slice");
        // SAFETY: the range is inside the borrowed slice (asserted) and the caller promises that it is not aliased.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count) }
    }
}
