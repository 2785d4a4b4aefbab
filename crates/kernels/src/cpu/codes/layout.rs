//! The layout of integer codes and their scales in a panel.
//!
//! A panel is 8 or 16 rows of the matrix, stored side by side. A chunk is 32 columns of a panel. The codes of a chunk
//! are stored as eight quads. A quad is four consecutive columns of all rows of the panel, row after row. So each
//! 32-bit lane of a vector holds four codes of one row, and a dot-product instruction multiplies these four codes by
//! four activations. A vector has four bytes per row of the panel, which is the size of a quad of 8-bit codes:
//!
//! ```text
//! quad q:   row 0: columns 4q..4q+4 | row 1: the same columns | … | the last row: the same columns
//! nibbles:  four vectors; vector v has quad v in its low nibbles and quad v + 4 in its high nibbles
//! high bits of 5-bit codes:  one vector; bit q of each byte belongs to quad q
//! high bits of 6-bit codes:  two vectors, for quads 0–3 and 4–7; two bits per quad
//! bytes:    eight vectors of signed levels
//! ```
//!
//! A superblock is eight consecutive chunks (256 columns). Two other arrays hold the scales: one array holds the scales
//! of each chunk, the other array holds the scales that the chunks of a superblock share ([`ScaleLayout`]).

/// Maximum number of rows of a panel.
pub(crate) const ROWS: usize = 16;
/// Number of columns per chunk.
pub(crate) const CHUNK: usize = 32;
/// Number of chunks per superblock. The chunks of a superblock share scales.
pub(crate) const SUPERBLOCK_CHUNKS: usize = 8;

/// The scales that a chunk has for each row.
///
/// A value is a decoded weight. A code is the stored integer. A level is the code minus the zero point, or a table
/// entry. The symbols in the formulas are the scales of one row: d is a float scale, s is an integer scale, m is a
/// minimum, and e is the float scale of an integer minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleLayout {
    /// One `f16` scale d: value = d · level.
    Block,
    /// One `bf16` scale d, because the scale may be a power of two outside the range of `f16`: value = d · level.
    Power,
    /// An `f16` scale d and an `f16` minimum m: value = d · code + m.
    Affine,
    /// An integer scale s and an integer minimum m per chunk; d and e as `f16` per superblock:
    /// value = d · s · code − e · m.
    GroupsAffine,
    /// An integer scale s per chunk; d as `f16` per superblock: value = d · s · level.
    Groups,
    /// An integer scale s per half of a chunk; d as `f16` per superblock: value = d · s · level.
    HalfGroups,
}

impl ScaleLayout {
    /// Returns the number of bytes of scales per row and chunk.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Groups => 1,
            Self::Block | Self::Power | Self::GroupsAffine | Self::HalfGroups => 2,
            Self::Affine => 4,
        }
    }

    /// Returns the number of bytes of scales per row and superblock.
    pub(crate) const fn shared_bytes(self) -> usize {
        match self {
            Self::Block | Self::Power | Self::Affine => 0,
            Self::Groups | Self::HalfGroups => 2,
            Self::GroupsAffine => 4,
        }
    }
}

/// The storage of codes, and the levels that the codes represent. The parameter of the first three variants is the zero
/// point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeLayout {
    /// Four bits; level = code − zero point.
    Four(i16),
    /// Five bits; level = code − zero point.
    Five(i16),
    /// Six bits; level = code − zero point.
    Six(i16),
    /// Four bits; level = entry of this table of signed levels.
    Table([i8; 16]),
    /// Eight bits; level = code. The code is signed.
    Bytes,
}

impl CodeLayout {
    /// Returns the number of bytes of the codes of one row of a chunk.
    pub(crate) fn bytes(self) -> usize {
        let bits = match self {
            Self::Four(_) | Self::Table(_) => 4,
            Self::Five(_) => 5,
            Self::Six(_) => 6,
            Self::Bytes => 8,
        };
        CHUNK * bits / 8
    }

    /// Returns the zero point: the integer that is subtracted from every code.
    pub(crate) fn zero_point(self) -> i16 {
        match self {
            Self::Four(zero_point) | Self::Five(zero_point) | Self::Six(zero_point) => zero_point,
            Self::Table(_) | Self::Bytes => 0,
        }
    }
}

// The layouts as integer constants. They are const generic arguments of the inner loops, so that these loops are
// compiled for each pair of layouts that a format uses.

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

/// Returns the scale layout that a constant stands for. Panics if there is no such layout.
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

/// Returns the number of bits per code of a code layout.
pub(crate) const fn code_bits(layout: u8) -> usize {
    match layout {
        FOUR | TABLE => 4,
        FIVE => 5,
        SIX => 6,
        _ => 8,
    }
}

/// Returns true if the chunks of a superblock share a scale in this scale layout. The sum of the superblock is
/// multiplied by the shared scale one time.
pub(crate) const fn has_shared_scale(layout: u8) -> bool {
    matches!(layout, GROUPS_AFFINE | GROUPS | HALF_GROUPS)
}

/// Returns true if weights have a minimum in this scale layout: weight = scale · code + minimum.
pub(crate) const fn has_minima(layout: u8) -> bool {
    matches!(layout, AFFINE | GROUPS_AFFINE)
}

/// The pairs of a code layout and a scale layout that have kernels. Formats with other pairs are decoded to floats.
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
    /// Returns the pair of these two layouts, or `None` if the pair has no kernels.
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

/// Expands to `$run!(codes, scales)`. `codes` and `scales` are the layout constants of `$matrix`.
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
