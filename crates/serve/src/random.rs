//! Random numbers and identifiers.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// Draws a random number.
pub fn random() -> u64 {
    // The standard library seeds its hash tables with random bits of the system.
    std::hash::RandomState::new().build_hasher().finish()
}

/// Returns an identifier that no other response has.
pub fn identifier(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}{:016x}{:08x}", random(), NEXT.fetch_add(1, Ordering::Relaxed))
}
