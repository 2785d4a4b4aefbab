//! Upper limits of the counts and sizes that a file may claim.

/// Upper limits (inclusive) of the data that an untrusted file can make this program read or allocate. A file above a
/// limit is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of tensors of a file.
    pub tensors: usize,
    /// Number of metadata entries of a file.
    pub metadata_entries: usize,
    /// Number of elements of one metadata array, for example of a vocabulary.
    pub array_elements: usize,
    /// Length of one metadata string in bytes.
    pub string_bytes: usize,
    /// Memory of all metadata of a file in bytes.
    pub metadata_bytes: usize,
    /// Size of one JSON file, or of the header of a safetensors file, in bytes.
    pub json_bytes: usize,
    /// Memory of one parsed JSON file in bytes.
    pub json_heap_bytes: usize,
    /// Number of shards of a checkpoint.
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
