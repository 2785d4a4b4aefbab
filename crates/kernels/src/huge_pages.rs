//! Memory for the weights that kernels stream through. It uses huge pages where the system has them.

use memmap2::{MmapMut, MmapOptions};
use std::alloc::{Layout, handle_alloc_error};

/// Zeroed bytes in their own memory mapping. The system places each page on the NUMA node of the thread that writes it
/// first.
pub(crate) struct HugePages {
    /// `None` for zero bytes: a mapping cannot be empty.
    map: Option<MmapMut>,
}

impl HugePages {
    /// Allocates zeroed memory. Aborts if the system has no memory left, like `Vec`.
    pub fn new(bytes: usize) -> Self {
        if bytes == 0 {
            return Self { map: None };
        }
        let layout = || Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>());
        let map = MmapOptions::new().len(bytes).map_anon().unwrap_or_else(|_| handle_alloc_error(layout()));
        // Huge pages reduce TLB misses. An error is ignored: normal pages are only slower.
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
