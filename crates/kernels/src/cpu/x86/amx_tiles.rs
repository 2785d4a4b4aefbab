//! The AMX tiles of a thread: configures their shapes and releases them.

use std::arch::asm;
use std::marker::PhantomData;

/// Configures eight tiles of the current thread, until the value is dropped. If a thread has two values, the shapes of
/// the later one apply.
pub(crate) struct ConfiguredTiles {
    /// Makes the type neither `Send` nor `Sync`: the tiles belong to the thread.
    _not_send: PhantomData<*const ()>,
}

/// The operand of `ldtilecfg` (Intel SDM, volume 1, 18.3.1).
#[repr(C, align(64))]
struct TileConfiguration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl ConfiguredTiles {
    /// Configures the first tiles. A shape has rows (at most 16) and bytes per row (at most 64). Panics for larger
    /// shapes or more than eight tiles.
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
        // SAFETY: the caller guarantees AMX; the structure has the 64 bytes that are read.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Self { _not_send: PhantomData }
    }
}

impl Drop for ConfiguredTiles {
    fn drop(&mut self) {
        // SAFETY: AMX is available, because tiles were configured; their contents are no longer needed.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
