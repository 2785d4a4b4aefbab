//! Decodes single columns of packed matrices. `codes/layout.rs` defines panels, chunks and superblocks.

use super::simd::SimdInt8;
use super::unpack::{SharedScale, WeightScale};
use crate::cpu::codes::layout::*;
use crate::cpu::codes::matrix::{CodeMatrix, Panel};
use crate::cpu::codes::outliers::ColumnPosition;

/// Access to the columns of `P` adjacent panels.
pub(crate) struct Columns<'a, V: SimdInt8, const CODES: u8, const SCALES: u8, const P: usize> {
    simd: V,
    /// The first panel. The other panels follow this panel in memory.
    panel: Panel<'a>,
    /// The table of signed levels, without [`SimdInt8::BIAS`]; zeros if the layout has no table.
    table: V::Ints,
    /// The negated zero point of the codes.
    minus_zero_point: V::Ints,
    /// The levels of the sixteen codes of a 4-bit layout. Only used if the instruction set can permute sixteen floats.
    levels: V::Floats,
}

impl<'a, V: SimdInt8, const CODES: u8, const SCALES: u8, const P: usize> Columns<'a, V, CODES, SCALES, P> {
    /// Panics if the matrix does not have the `P` panels from `first` on.
    #[inline(always)]
    pub fn new(simd: V, matrix: &'a CodeMatrix, first: usize) -> Self {
        let levels = match matrix.code_layout {
            CodeLayout::Table(levels) => levels.map(i8::cast_unsigned),
            _ => [0; 16],
        };
        let float_levels = match matrix.code_layout {
            CodeLayout::Table(levels) => levels.map(f32::from),
            layout => {
                let zero_point = if has_minima(SCALES) { 0 } else { layout.zero_point() };
                std::array::from_fn(|code| f32::from(code as i16 - zero_point))
            }
        };
        // This call panics if the matrix does not have the last panel.
        let _ = matrix.panel(first + P - 1);
        let minus_zero_point = simd.splat(-i32::from(matrix.code_layout.zero_point()));
        // SAFETY: a vector has at most sixteen floats.
        let float_levels = unsafe { simd.load_floats(float_levels.as_ptr()) };
        Self {
            simd,
            panel: matrix.panel(first),
            table: simd.level_table(&levels),
            minus_zero_point,
            levels: float_levels,
        }
    }

    /// Returns the address after the last byte of the codes of all `P` panels.
    pub fn codes_end(&self) -> *const u8 {
        self.panel.codes.as_ptr().wrapping_add(P * self.panel.codes.len())
    }

    /// Loads the superblock scales of a column, for each panel.
    ///
    /// # Safety
    /// `position` is the position of a column that the panels have.
    #[inline(always)]
    pub unsafe fn shared(&self, position: &ColumnPosition) -> [SharedScale<V>; P] {
        let simd = self.simd;
        let mut per_panel = [SharedScale::zero(simd); P];
        let shared = self.panel.shared;
        // This is a loop, because a closure would not be compiled for the instruction set.
        for (p, panel_scales) in per_panel.iter_mut().enumerate() {
            // SAFETY: the caller guarantees that the panels have this column. The panels are adjacent in memory, so the
            // address is inside panel `p`.
            *panel_scales = unsafe {
                SharedScale::load::<SCALES>(
                    simd,
                    shared.as_ptr().wrapping_add(p * shared.len() + position.shared as usize),
                )
            };
        }
        per_panel
    }

    /// Loads the scales of a column, for each panel. `shared` are the superblock scales of this column.
    ///
    /// # Safety
    /// `position` is the position of a column that the panels have.
    #[inline(always)]
    pub unsafe fn scales(
        &self,
        position: &ColumnPosition,
        shared: &[SharedScale<V>; P],
    ) -> [WeightScale<V>; P] {
        let simd = self.simd;
        let mut per_panel = [WeightScale::zero(simd); P];
        let scales = self.panel.scales;
        for (p, (panel_scales, shared)) in per_panel.iter_mut().zip(shared).enumerate() {
            // SAFETY: the caller guarantees that the panels have this column. The panels are adjacent in memory, so the
            // address is inside panel `p`.
            *panel_scales = unsafe {
                WeightScale::load::<SCALES>(
                    simd,
                    scales.as_ptr().add(p * scales.len() + position.scales as usize),
                    shared,
                )
            };
        }
        per_panel
    }

    /// Decodes the weights of a column, for each panel. `scales` are the scales of this column.
    ///
    /// # Safety
    /// `position` is the position of a column that the panels have.
    #[inline(always)]
    pub unsafe fn weights(&self, position: &ColumnPosition, scales: &[WeightScale<V>; P]) -> [V::Floats; P] {
        let simd = self.simd;
        let mut weights = [simd.splat_float(0.0); P];
        let codes = self.panel.codes;
        for (p, (weight, scale)) in weights.iter_mut().zip(scales).enumerate() {
            // SAFETY: the caller guarantees that the panels have this column. The panels are adjacent in memory, so the
            // address is the start of the codes of panel `p`.
            unsafe {
                let codes = codes.as_ptr().add(p * codes.len());
                *weight = scale.weight::<SCALES>(simd, self.level(codes, position));
            }
        }
        weights
    }

    /// Decodes the weights of columns that have the same scale, and writes them to `weights`: for each column, one
    /// float per row of the panels.
    ///
    /// # Safety
    /// The panels have these columns.
    #[inline(always)]
    pub unsafe fn decode(&self, columns: &[u32], weights: &mut [f32]) {
        // SAFETY: the caller guarantees that the panels have these columns. `target` has `P * V::ROWS` floats, which is
        // the size of `P` vectors.
        unsafe {
            let position = ColumnPosition::new::<CODES, SCALES>(columns[0] as usize, V::ROWS);
            let scales = self.scales(&position, &self.shared(&position));
            for (column, target) in columns.iter().zip(weights.chunks_exact_mut(P * V::ROWS)) {
                let position = ColumnPosition::new::<CODES, SCALES>(*column as usize, V::ROWS);
                for (p, weight) in self.weights(&position, &scales).into_iter().enumerate() {
                    self.simd.store_floats(weight, target.as_mut_ptr().add(p * V::ROWS));
                }
            }
        }
    }

    /// Unpacks the levels of a column from the codes of one panel. If the layout has minima, returns the codes instead
    /// of the levels.
    ///
    /// # Safety
    /// `codes` is the start of the codes of one of the panels. `position` is the position of a column that this panel
    /// has.
    #[inline(always)]
    unsafe fn level(&self, codes: *const u8, position: &ColumnPosition) -> V::Floats {
        let simd = self.simd;
        // Loads the vector at `offset` and shifts its lanes to the right by `shift`.
        // SAFETY: the caller guarantees that the panel has the column, so the vector is inside the codes of the panel.
        let shifted = |offset: u32, shift: u32| unsafe {
            simd.shift_right_32(simd.load(codes.add(offset as usize)), shift)
        };
        let bits = |offset: u32, shift: u32, mask: i32| simd.and(shifted(offset, shift), simd.splat(mask));
        // Converts the low byte of each lane from an unsigned to a signed byte.
        let signed = |byte: V::Ints| simd.add(simd.xor(byte, simd.splat(128)), simd.splat(-128));
        if V::PERMUTES_FLOATS && matches!(CODES, FOUR | TABLE) {
            return simd.permute_floats(self.levels, shifted(position.codes, position.shift));
        }
        let level = if CODES == BYTES {
            signed(bits(position.codes, position.shift, 255))
        } else {
            let low = bits(position.codes, position.shift, 15);
            let code = match CODES {
                FIVE => simd.or(low, simd.shift_left_16::<4>(bits(position.upper, position.upper_shift, 1))),
                SIX => simd.or(low, simd.shift_left_16::<4>(bits(position.upper, position.upper_shift, 3))),
                TABLE => signed(simd.and(simd.lookup(self.table, low), simd.splat(255))),
                _ => low,
            };
            if CODES == TABLE || has_minima(SCALES) { code } else { simd.add(code, self.minus_zero_point) }
        };
        simd.to_floats(level)
    }
}
