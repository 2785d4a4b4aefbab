//! Keys of clients.

use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq};

/// The client of a request: the number of its key.
#[derive(Clone, Debug)]
pub struct Client(pub Arc<str>);

/// The keys that the server accepts. Without keys, everybody may use it.
#[derive(Clone, Default)]
pub struct Keys(Vec<String>);

impl Keys {
    /// Accepts these keys. Empty ones are left out.
    pub fn new(keys: impl IntoIterator<Item = String>) -> Self {
        Self(keys.into_iter().filter(|key| !key.is_empty()).collect())
    }

    /// True if everybody may use the server.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of a key. The time does not depend on the key's contents.
    pub fn find(&self, given: &[u8]) -> Option<usize> {
        let mut found = None;
        for (number, key) in self.0.iter().enumerate() {
            let equal: Choice = key.as_bytes().ct_eq(given);
            if bool::from(equal) {
                found = Some(number);
            }
        }
        found
    }
}
