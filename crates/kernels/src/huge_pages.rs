//! Memory for the weights that kernels read. It uses huge pages if the system supports them.

use memmap2::{MmapMut, MmapOptions};
use std::alloc::{Layout, handle_alloc_error};

/// Bytes in a separate memory mapping, initially zero. The system places each page of the mapping on the NUMA node of
/// the thread that writes to the page first.
pub(crate) struct HugePages {
    /// `None` if there are no bytes, because a mapping cannot be empty.
    map: Option<MmapMut>,
}

impl HugePages {
    /// Allocates `bytes` zero bytes. Aborts the process if the system has no free memory, as `Vec` does.
    pub fn new(bytes: usize) -> Self {
        if bytes == 0 {
            return Self { map: None };
        }
        let layout = || Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>());
        let map = MmapOptions::new().len(bytes).map_anon().unwrap_or_else(|_| handle_alloc_error(layout()));
        // Huge pages reduce TLB misses. An error is ignored, because the memory also works with normal pages.
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
