//! How much a file may ask for before it is refused.

/// Bounds on what a file from the network may make this program read or allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tensors a checkpoint may name.
    pub tensors: usize,
    /// Metadata entries a file may hold.
    pub metadata_entries: usize,
    /// Elements of one metadata array (a vocabulary is one).
    pub array_elements: usize,
    /// Bytes of one metadata string.
    pub string_bytes: usize,
    /// Bytes that all metadata together may take in memory.
    pub metadata_bytes: usize,
    /// Bytes of one JSON file or safetensors header.
    pub json_bytes: usize,
    /// Bytes that one parsed JSON file may take in memory.
    pub json_heap_bytes: usize,
    /// Shards of one checkpoint.
    pub shards: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tensors: 1 << 17,
            metadata_entries: 1 << 14,
            array_elements: 1 << 22,
            string_bytes: 1 << 24,
            metadata_bytes: 1 << 28,
            json_bytes: 1 << 27,
            json_heap_bytes: 1 << 26,
            shards: 1 << 12,
        }
    }
}
