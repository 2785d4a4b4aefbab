//! Codings and schemes as numbers, so that inner loops are compiled for each pair that a format has.

use super::{Coding, Scheme};

pub(super) const FOUR: u8 = 4;
pub(super) const FIVE: u8 = 5;
pub(super) const SIX: u8 = 6;
pub(super) const TABLE: u8 = 7;
pub(super) const BYTES: u8 = 8;

pub(super) const BLOCK: u8 = 0;
pub(super) const POWER: u8 = 1;
pub(super) const AFFINE: u8 = 2;
pub(super) const GROUPS_AFFINE: u8 = 3;
pub(super) const GROUPS: u8 = 4;
pub(super) const HALF_GROUPS: u8 = 5;

/// What a scheme's number stands for.
pub(super) const fn scheme(kind: u8) -> Scheme {
    match kind {
        BLOCK => Scheme::Block,
        POWER => Scheme::Power,
        AFFINE => Scheme::Affine,
        GROUPS_AFFINE => Scheme::GroupsAffine,
        GROUPS => Scheme::Groups,
        HALF_GROUPS => Scheme::HalfGroups,
        _ => panic!("no scheme has this number"),
    }
}

/// Bits of a code.
pub(super) const fn code_bits(coding: u8) -> usize {
    match coding {
        FOUR | TABLE => 4,
        FIVE => 5,
        SIX => 6,
        _ => 8,
    }
}

/// Whether eight chunks share a scale: what they add up to is multiplied by it once.
pub(super) const fn shares(scheme: u8) -> bool {
    matches!(scheme, GROUPS_AFFINE | GROUPS | HALF_GROUPS)
}

/// Tells if kernels exist for a coding under a scheme. Other formats run on the generic path.
pub(super) fn has_kernels(coding: Coding, scheme: Scheme) -> bool {
    match coding {
        Coding::Four(_) | Coding::Five(_) => {
            matches!(scheme, Scheme::Block | Scheme::Affine | Scheme::GroupsAffine)
        }
        Coding::Six(_) => scheme == Scheme::HalfGroups,
        Coding::Table(_) => matches!(scheme, Scheme::Block | Scheme::Power | Scheme::Groups),
        Coding::Bytes => scheme == Scheme::Block,
    }
}

/// Runs `$run!(coding, scheme)` with the constants of a matrix.
macro_rules! for_each_kind {
    ($matrix:expr, $run:ident) => {
        match ($matrix.coding, $matrix.scheme) {
            (Coding::Four(_), Scheme::Block) => $run!(FOUR, BLOCK),
            (Coding::Four(_), Scheme::Affine) => $run!(FOUR, AFFINE),
            (Coding::Four(_), Scheme::GroupsAffine) => $run!(FOUR, GROUPS_AFFINE),
            (Coding::Five(_), Scheme::Block) => $run!(FIVE, BLOCK),
            (Coding::Five(_), Scheme::Affine) => $run!(FIVE, AFFINE),
            (Coding::Five(_), Scheme::GroupsAffine) => $run!(FIVE, GROUPS_AFFINE),
            (Coding::Six(_), Scheme::HalfGroups) => $run!(SIX, HALF_GROUPS),
            (Coding::Table(_), Scheme::Block) => $run!(TABLE, BLOCK),
            (Coding::Table(_), Scheme::Power) => $run!(TABLE, POWER),
            (Coding::Table(_), Scheme::Groups) => $run!(TABLE, GROUPS),
            (Coding::Bytes, Scheme::Block) => $run!(BYTES, BLOCK),
            (coding, scheme) => unreachable!("`has_kernels` lets no {coding:?} with {scheme:?} in"),
        }
    };
}

pub(super) use for_each_kind;
