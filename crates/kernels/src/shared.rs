//! A mutable slice that the tasks of a parallel run share. Each task writes its own part.

use std::marker::PhantomData;

/// A mutable slice from which tasks take parts. The tasks must guarantee that their parts do not overlap.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` is like a `&mut [T]` whose parts are used by different threads. `T: Send` allows this use. The
// contract of `part` guarantees that the parts are disjoint.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), owner: PhantomData }
    }

    /// Returns `count` elements, beginning with the element at index `at`. Panics if they are outside the slice.
    ///
    /// # Safety
    /// No overlapping part may exist during the lifetime of the result.
    #[allow(clippy::mut_from_ref, reason = "handing out disjoint parts from a shared borrow is the purpose")]
    pub unsafe fn part(&self, at: usize, count: usize) -> &mut [T] {
        assert!(at <= self.length && count <= self.length - at, "a part lies inside its slice");
        // SAFETY: the range is inside the borrowed slice (asserted above). The caller guarantees that no other
        // reference to this range exists.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count) }
    }
}
