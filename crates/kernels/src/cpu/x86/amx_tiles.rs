//! The tiles of AMX: their shapes, for as long as a thread uses them.

use std::arch::asm;
use std::marker::PhantomData;

/// Eight tiles of a thread in these shapes, until it is dropped. Where two live on one thread, the later one's shapes count.
pub(crate) struct Configured {
    /// Of the thread that made it.
    _stays: PhantomData<*const ()>,
}

/// What `ldtilecfg` reads (Intel SDM, volume 1, 18.3.1).
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Configured {
    /// Rows, and bytes of a row, of the first tiles: 16 and 64 at most. Panics where there are more.
    ///
    /// # Safety
    /// The processor has AMX, and the system lets this process use it.
    pub unsafe fn new(shapes: &[(u8, u16)]) -> Self {
        assert!(
            shapes.len() <= 8 && shapes.iter().all(|&(rows, bytes)| rows <= 16 && bytes <= 64),
            "tiles there are"
        );
        let mut all =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, &(rows, bytes)) in shapes.iter().enumerate() {
            (all.rows[tile], all.row_bytes[tile]) = (rows, bytes);
        }
        // SAFETY: the caller promises AMX; all 64 bytes are read.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const all, options(nostack, readonly)) };
        Self { _stays: PhantomData }
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: AMX is there, for tiles were configured; their contents are no longer needed.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
