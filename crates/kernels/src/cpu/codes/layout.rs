//! How integer codes and their scales lie in a panel.
//!
//! So many rows (8 or 16) make a panel, 32 columns a chunk of it. A chunk's codes are quads, four columns of all rows side by
//! side, so that four activations stand in every lane against them; a vector is as long as a quad of bytes:
//!
//! ```text
//! quad q:   row 0: columns 4q..4q+4 | row 1: the same | … | the last row
//! nibbles:  four vectors; vector v has quad v in its low halves and quad v + 4 in its high ones
//! high bits of 5:  one vector, bit q of each byte for quad q
//! high bits of 6:  two vectors, of quads 0–3 and 4–7, two bits each
//! bytes:    eight vectors of signed levels
//! ```
//!
//! Beside the codes lie each chunk's scales, and those that eight chunks share ([`ScaleLayout`]).

/// Rows of a panel, at most.
pub(crate) const ROWS: usize = 16;
/// Columns of a chunk.
pub(crate) const CHUNK: usize = 32;
/// Chunks that share the scales of a block of 256 columns.
pub(crate) const SHARING: usize = 8;

/// The scales of a chunk, for each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleLayout {
    /// d as half a float: value = d · level.
    Block,
    /// The same as the upper half of a float: powers of two that no half reaches.
    Power,
    /// d and m as halves: value = d · code + m.
    Affine,
    /// An integer scale s and minimum m; d and e, halves, once for eight chunks: value = d · s · code − e · m.
    GroupsAffine,
    /// An integer scale s; d once for eight chunks: value = d · s · level.
    Groups,
    /// The same with a scale for either half of the chunk.
    HalfGroups,
}

impl ScaleLayout {
    /// Bytes a row and chunk.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Groups => 1,
            Self::Block | Self::Power | Self::GroupsAffine | Self::HalfGroups => 2,
            Self::Affine => 4,
        }
    }

    /// Bytes a row that eight chunks share.
    pub(crate) const fn shared_bytes(self) -> usize {
        match self {
            Self::Block | Self::Power | Self::Affine => 0,
            Self::Groups | Self::HalfGroups => 2,
            Self::GroupsAffine => 4,
        }
    }
}

/// How codes are stored, and the levels that they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeLayout {
    /// Four bits: code − zero point.
    Four(i16),
    /// Five bits: code − zero point.
    Five(i16),
    /// Six bits: code − zero point.
    Six(i16),
    /// Four bits: a table of signed levels.
    Table([i8; 16]),
    /// Signed levels themselves.
    Bytes,
}

impl CodeLayout {
    /// Bytes of a row's codes of a chunk.
    pub(crate) fn bytes(self) -> usize {
        let bits = match self {
            Self::Four(_) | Self::Table(_) => 4,
            Self::Five(_) => 5,
            Self::Six(_) => 6,
            Self::Bytes => 8,
        };
        CHUNK * bits / 8
    }

    /// The integer that is subtracted from every code.
    pub(crate) fn zero_point(self) -> i16 {
        match self {
            Self::Four(zero_point) | Self::Five(zero_point) | Self::Six(zero_point) => zero_point,
            Self::Table(_) | Self::Bytes => 0,
        }
    }
}

// The layouts as numbers, so that inner loops are compiled for each pair that a format has.

pub(crate) const FOUR: u8 = 4;
pub(crate) const FIVE: u8 = 5;
pub(crate) const SIX: u8 = 6;
pub(crate) const TABLE: u8 = 7;
pub(crate) const BYTES: u8 = 8;

pub(crate) const BLOCK: u8 = 0;
pub(crate) const POWER: u8 = 1;
pub(crate) const AFFINE: u8 = 2;
pub(crate) const GROUPS_AFFINE: u8 = 3;
pub(crate) const GROUPS: u8 = 4;
pub(crate) const HALF_GROUPS: u8 = 5;

/// The scale layout of a number.
pub(crate) const fn scale_layout(kind: u8) -> ScaleLayout {
    match kind {
        BLOCK => ScaleLayout::Block,
        POWER => ScaleLayout::Power,
        AFFINE => ScaleLayout::Affine,
        GROUPS_AFFINE => ScaleLayout::GroupsAffine,
        GROUPS => ScaleLayout::Groups,
        HALF_GROUPS => ScaleLayout::HalfGroups,
        _ => panic!("no scale layout has this number"),
    }
}

/// Bits of a code.
pub(crate) const fn code_bits(layout: u8) -> usize {
    match layout {
        FOUR | TABLE => 4,
        FIVE => 5,
        SIX => 6,
        _ => 8,
    }
}

/// Whether eight chunks share a scale: what they add up to is multiplied by it once.
pub(crate) const fn shares(layout: u8) -> bool {
    matches!(layout, GROUPS_AFFINE | GROUPS | HALF_GROUPS)
}

/// The pairs of layouts that have kernels. Other formats are dequantized during the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayoutPair {
    FourBlock,
    FourAffine,
    FourGroupsAffine,
    FiveBlock,
    FiveAffine,
    FiveGroupsAffine,
    SixHalfGroups,
    TableBlock,
    TablePower,
    TableGroups,
    BytesBlock,
}

impl LayoutPair {
    /// The pair, if it has kernels.
    pub fn new(codes: CodeLayout, scales: ScaleLayout) -> Option<Self> {
        Some(match (codes, scales) {
            (CodeLayout::Four(_), ScaleLayout::Block) => Self::FourBlock,
            (CodeLayout::Four(_), ScaleLayout::Affine) => Self::FourAffine,
            (CodeLayout::Four(_), ScaleLayout::GroupsAffine) => Self::FourGroupsAffine,
            (CodeLayout::Five(_), ScaleLayout::Block) => Self::FiveBlock,
            (CodeLayout::Five(_), ScaleLayout::Affine) => Self::FiveAffine,
            (CodeLayout::Five(_), ScaleLayout::GroupsAffine) => Self::FiveGroupsAffine,
            (CodeLayout::Six(_), ScaleLayout::HalfGroups) => Self::SixHalfGroups,
            (CodeLayout::Table(_), ScaleLayout::Block) => Self::TableBlock,
            (CodeLayout::Table(_), ScaleLayout::Power) => Self::TablePower,
            (CodeLayout::Table(_), ScaleLayout::Groups) => Self::TableGroups,
            (CodeLayout::Bytes, ScaleLayout::Block) => Self::BytesBlock,
            _ => return None,
        })
    }
}

/// Runs `$run!(codes, scales)` with the constants of a matrix.
macro_rules! for_each_layout {
    ($matrix:expr, $run:ident) => {
        match $matrix.layouts {
            LayoutPair::FourBlock => $run!(FOUR, BLOCK),
            LayoutPair::FourAffine => $run!(FOUR, AFFINE),
            LayoutPair::FourGroupsAffine => $run!(FOUR, GROUPS_AFFINE),
            LayoutPair::FiveBlock => $run!(FIVE, BLOCK),
            LayoutPair::FiveAffine => $run!(FIVE, AFFINE),
            LayoutPair::FiveGroupsAffine => $run!(FIVE, GROUPS_AFFINE),
            LayoutPair::SixHalfGroups => $run!(SIX, HALF_GROUPS),
            LayoutPair::TableBlock => $run!(TABLE, BLOCK),
            LayoutPair::TablePower => $run!(TABLE, POWER),
            LayoutPair::TableGroups => $run!(TABLE, GROUPS),
            LayoutPair::BytesBlock => $run!(BYTES, BLOCK),
        }
    };
}

pub(crate) use for_each_layout;
