//! The storage formats of keys and values.

/// Number of positions in a page.
pub(crate) const PAGE: usize = 64;
/// Number of keys in a panel. It is also the number of elements in a vector of values.
pub(crate) const LANES: usize = 16;
/// Number of elements of a head that share a scale, in the quantized formats.
pub(crate) const BLOCK: usize = 32;
/// Number of panels of keys per head in a page.
pub(crate) const PANELS: usize = PAGE / LANES;

/// Storage format of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats.
    F16,
    /// 8-bit codes. Each block of 32 elements of a head shares one scale; zeros fill the last block.
    Q8_0,
    /// 4-bit codes. Each block of 32 elements of a head shares one scale; zeros fill the last block. The keys are rotated
    /// by a Hadamard matrix. A query reads the first page and its own page in 8 bits. A page is 64 positions.
    Q4_0,
}

impl KvFormat {
    /// All formats, in the order of decreasing size.
    pub const ALL: &[Self] = &[Self::F32, Self::F16, Self::Q8_0, Self::Q4_0];

    /// Returns the name that llama.cpp uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// Returns the number of elements that are stored for a head of `head_size` elements. The quantized formats add zeros
    /// up to a whole block.
    pub(crate) fn stored_head_size(self, head_size: usize) -> usize {
        match self {
            Self::F32 | Self::F16 => head_size,
            Self::Q8_0 | Self::Q4_0 => head_size.next_multiple_of(BLOCK),
        }
    }

    /// Returns true if keys and queries are rotated by a Hadamard matrix.
    pub(crate) fn rotates_keys(self) -> bool {
        self == Self::Q4_0
    }

    /// Returns the format in which a query reads the first page and its own page. Returns `None` if a query reads all
    /// pages in the format itself.
    pub(crate) fn precise(self) -> Option<Self> {
        (self == Self::Q4_0).then_some(Self::Q8_0)
    }

    /// Returns the bytes of a panel of keys: 16 positions of one head.
    pub(crate) fn panel_bytes(self, head_size: usize) -> usize {
        match self {
            Self::F32 => head_size * LANES * 4,
            Self::F16 => head_size * LANES * 2,
            Self::Q8_0 => head_size / BLOCK * (2 * LANES + BLOCK * LANES),
            Self::Q4_0 => head_size / BLOCK * (2 * LANES + BLOCK * LANES / 2),
        }
    }

    /// Returns the bytes of a part of values: [`KvFormat::part_floats`] elements of a head, for all positions of a
    /// page.
    pub(crate) fn part_bytes(self) -> usize {
        match self {
            Self::F32 => PAGE * LANES * 4,
            Self::F16 => PAGE * LANES * 2,
            Self::Q8_0 => PAGE * (2 + BLOCK),
            Self::Q4_0 => PAGE * (2 + BLOCK / 2),
        }
    }

    /// Returns the number of elements of a head in a part of values.
    pub(crate) fn part_floats(self) -> usize {
        match self {
            Self::F32 | Self::F16 => LANES,
            Self::Q8_0 | Self::Q4_0 => BLOCK,
        }
    }

    /// Returns the bytes of the keys of one head in a page.
    pub(crate) fn key_bytes(self, head_size: usize) -> usize {
        PANELS * self.panel_bytes(head_size)
    }

    /// Returns the bytes of the keys and values of one head in a page.
    pub(crate) fn head_bytes(self, head_size: usize) -> usize {
        self.key_bytes(head_size) + head_size.div_ceil(self.part_floats()) * self.part_bytes()
    }
}
