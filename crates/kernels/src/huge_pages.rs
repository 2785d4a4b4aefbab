//! Memory that kernels stream through: whole pages, large ones where the system has them.

use memmap2::{MmapMut, MmapOptions};
use std::alloc::{Layout, handle_alloc_error};

/// Zeroed bytes on pages of their own. Each page lies near the thread that writes it first.
pub(crate) struct HugePages {
    /// Nothing for no bytes, which cannot be mapped.
    map: Option<MmapMut>,
}

impl HugePages {
    /// Ends where the system has no such memory, as a `Vec` does.
    pub fn new(bytes: usize) -> Self {
        if bytes == 0 {
            return Self { map: None };
        }
        let layout = || Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>());
        let map = MmapOptions::new().len(bytes).map_anon().unwrap_or_else(|_| handle_alloc_error(layout()));
        // Half as many misses of the page tables in a product of one row; a system without large pages says so, and
        // small ones serve as well.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Self { map: Some(map) }
    }

    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}
