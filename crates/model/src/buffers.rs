//! Memory for activations, kept from step to step: what the system hands out anew it clears first, page by page, which
//! took a twelfth of a prompt's time (1B, `q4_0`, 512 tokens).

use std::cell::RefCell;

/// Vectors that are kept at most; a block has no more at once.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// `length` numbers of unspecified value.
pub(crate) fn take(length: usize) -> Vec<f32> {
    let kept = FREE.with(|free| {
        let mut free = free.borrow_mut();
        // The smallest that is large enough; one that is too small would be copied as it grows.
        let fits = free.iter().enumerate().filter(|(_, kept)| kept.capacity() >= length);
        let best = fits.min_by_key(|(_, kept)| kept.capacity()).map(|(index, _)| index);
        best.map(|index| free.swap_remove(index))
    });
    let mut taken = kept.unwrap_or_else(|| Vec::with_capacity(length));
    taken.resize(length, 0.0);
    taken
}

/// Keeps a vector that is no longer needed.
pub(crate) fn give(vector: Vec<f32>) {
    FREE.with(|free| {
        let mut free = free.borrow_mut();
        if free.len() == KEPT {
            // What is too small for others' use is never taken again.
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
