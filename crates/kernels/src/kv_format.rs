//! How keys and values are stored.

use crate::Error;

/// Positions of a page.
pub(crate) const PAGE: usize = 64;
/// Keys of a panel, and numbers of a chunk.
pub(crate) const LANES: usize = 16;
/// Numbers under one scale.
pub(crate) const BLOCK: usize = 32;
/// Panels of a page.
pub(crate) const PANELS: usize = PAGE / LANES;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// As they are.
    #[default]
    F32,
    /// Half floats.
    F16,
    /// Eight bits, 32 under one scale.
    Q8_0,
    /// Four bits, 32 under one scale, keys after a rotation; the first 64 positions, and the 64 (from a multiple of 64 on) that
    /// the last one is among, in eight bits.
    Q4_0,
}

impl KvFormat {
    /// Every format, the largest first.
    pub const ALL: &[Self] = &[Self::F32, Self::F16, Self::Q8_0, Self::Q4_0];

    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// Refuses heads that the format's blocks don't divide.
    ///
    /// # Errors
    /// [`Error::HeadSize`].
    pub fn check(self, head_size: usize) -> Result<(), Error> {
        let quantized = matches!(self, Self::Q8_0 | Self::Q4_0);
        if quantized && !head_size.is_multiple_of(BLOCK) {
            return Err(Error::HeadSize { format: self.name(), head_size });
        }
        Ok(())
    }

    /// Whether keys, and queries that look at them, are turned.
    pub(crate) fn turns(self) -> bool {
        self == Self::Q4_0
    }

    /// In what queries see the first page and their own, where not in the format itself.
    pub(crate) fn fine(self) -> Option<Self> {
        (self == Self::Q4_0).then_some(Self::Q8_0)
    }

    /// Bytes of a panel of keys.
    pub(crate) fn panel_bytes(self, head_size: usize) -> usize {
        match self {
            Self::F32 => head_size * LANES * 4,
            Self::F16 => head_size * LANES * 2,
            Self::Q8_0 => head_size / BLOCK * (2 * LANES + BLOCK * LANES),
            Self::Q4_0 => head_size / BLOCK * (2 * LANES + BLOCK * LANES / 2),
        }
    }

    /// Bytes of what values of a page have in [`KvFormat::numbers`] numbers of a head.
    pub(crate) fn part_bytes(self) -> usize {
        match self {
            Self::F32 => PAGE * LANES * 4,
            Self::F16 => PAGE * LANES * 2,
            Self::Q8_0 => PAGE * (2 + BLOCK),
            Self::Q4_0 => PAGE * (2 + BLOCK / 2),
        }
    }

    /// Numbers of a head whose values stand together.
    pub(crate) fn numbers(self) -> usize {
        match self {
            Self::F32 | Self::F16 => LANES,
            Self::Q8_0 | Self::Q4_0 => BLOCK,
        }
    }

    /// Bytes of a head's keys in a page.
    pub(crate) fn key_bytes(self, head_size: usize) -> usize {
        PANELS * self.panel_bytes(head_size)
    }

    /// Bytes of a head's keys and values in a page.
    pub(crate) fn head_bytes(self, head_size: usize) -> usize {
        self.key_bytes(head_size) + head_size.div_ceil(self.numbers()) * self.part_bytes()
    }
}
