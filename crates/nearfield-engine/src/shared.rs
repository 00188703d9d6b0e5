//! A slice that several threads write in disjoint places.

use std::marker::PhantomData;

/// A mutable slice to be shared among the workers of one section.
pub(crate) struct SharedSlice<'a, T> {
    pointer: *mut T,
    length: usize,
    marker: PhantomData<&'a mut [T]>,
}

// SAFETY: `get` is unsafe and asks for disjoint ranges.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), length: slice.len(), marker: PhantomData }
    }

    /// The elements `start .. start + length`.
    ///
    /// # Safety
    /// No other reference to any of them exists while this one lives.
    #[expect(clippy::mut_from_ref, reason = "that the ranges are disjoint is the caller's promise")]
    pub(crate) unsafe fn get(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start.checked_add(length).is_some_and(|end| end <= self.length), "a range outside the slice");
        // SAFETY: inside the slice, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }
}
