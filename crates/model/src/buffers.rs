//! Reuse of activation buffers from step to step.
//!
//! The operating system zeroes each page of a new allocation at the first access. That takes a measurable part of the
//! prefill time.

use std::cell::RefCell;

/// The largest number of vectors that are kept. A block has no more in use at a time.
const MAX_KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Returns `length` floats of unspecified value.
pub(crate) fn take(length: usize) -> Vec<f32> {
    let kept = FREE.with(|free| {
        let mut free = free.borrow_mut();
        // The smallest vector that is large enough: a vector that is too small would be copied when it grows.
        let fits = free.iter().enumerate().filter(|(_, kept)| kept.capacity() >= length);
        let best = fits.min_by_key(|(_, kept)| kept.capacity()).map(|(index, _)| index);
        best.map(|index| free.swap_remove(index))
    });
    let mut taken = kept.unwrap_or_else(|| Vec::with_capacity(length));
    taken.resize(length, 0.0);
    taken
}

/// Keeps a vector for reuse by [`take`].
pub(crate) fn give(vector: Vec<f32>) {
    FREE.with(|free| {
        let mut free = free.borrow_mut();
        if free.len() == MAX_KEPT {
            // The smallest vector is the least likely to be large enough for a later request.
            let smallest = free.iter().enumerate().min_by_key(|(_, kept)| kept.capacity());
            let index = smallest.map_or(0, |(index, _)| index);
            free.swap_remove(index);
        }
        free.push(vector);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_taken_again() {
        let first = take(1000);
        let place = first.as_ptr();
        give(first);
        let again = take(900);
        assert_eq!((again.as_ptr(), again.len()), (place, 900));
        let other = take(900);
        assert_ne!(other.as_ptr(), place);
    }
}
