//! Configures and releases the AMX tiles of a thread.

use std::arch::asm;
use std::marker::PhantomData;

/// The configured tiles of the current thread. Dropping the value releases all tiles of the thread. If a thread has two
/// values, the shapes of the later value apply.
pub(crate) struct ConfiguredTiles {
    /// Makes the type neither `Send` nor `Sync`, because tiles belong to one thread.
    _not_send: PhantomData<*const ()>,
}

/// The operand of `ldtilecfg` (Intel SDM, volume 1, 18.3.1).
#[repr(C, align(64))]
struct TileConfiguration {
    /// 1: eight tiles of at most sixteen rows with at most 64 bytes per row.
    palette: u8,
    /// The row at which an interrupted load or store continues; 0.
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes per row of each tile.
    row_bytes: [u16; 16],
    /// Number of rows of each tile.
    rows: [u8; 16],
}

impl ConfiguredTiles {
    /// Configures one tile per shape, beginning with tile 0. A shape is (rows, bytes per row). A tile has at most
    /// sixteen rows and at most 64 bytes per row.
    ///
    /// Panics if a shape is larger or if there are more than eight shapes.
    ///
    /// # Safety
    /// The processor has AMX, and the system permits this process to use it.
    pub unsafe fn new(shapes: &[(u8, u16)]) -> Self {
        assert!(
            shapes.len() <= 8 && shapes.iter().all(|&(rows, bytes)| rows <= 16 && bytes <= 64),
            "tiles there are"
        );
        let mut configuration = TileConfiguration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for (tile, &(rows, bytes)) in shapes.iter().enumerate() {
            (configuration.rows[tile], configuration.row_bytes[tile]) = (rows, bytes);
        }
        // SAFETY: the caller guarantees that the processor has AMX. The instruction reads 64 bytes, the size of the
        // structure.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Self { _not_send: PhantomData }
    }
}

impl Drop for ConfiguredTiles {
    fn drop(&mut self) {
        // SAFETY: the processor has AMX, because `new` configured tiles. No later code needs the contents of these
        // tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
