//! Unicode classes of characters, as the regular expressions of pre-tokenizers name them.
//!
//! One byte a code point, made once from the tables that the regular expression engine has: a split by hand and a
//! split by expression cannot differ in what a letter is.

use regex_syntax::hir::{Class, HirKind};
use std::sync::OnceLock;

/// `\p{L}`.
pub(super) const LETTER: u8 = 1;
/// `\p{N}`.
pub(super) const NUMBER: u8 = 2;
/// `\p{M}`.
pub(super) const MARK: u8 = 4;
/// `\s`.
pub(super) const SPACE: u8 = 8;
/// `\w`.
pub(super) const WORD: u8 = 16;

const CODE_POINTS: usize = 0x11_0000;

/// The classes of every code point.
pub(super) struct Classes(Vec<u8>);

impl Classes {
    /// The table, made at the first call.
    pub fn get() -> &'static Self {
        static TABLE: OnceLock<Classes> = OnceLock::new();
        TABLE.get_or_init(|| {
            let mut table = vec![0; CODE_POINTS];
            for (expression, bit) in
                [(r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\p{M}", MARK), (r"\s", SPACE), (r"\w", WORD)]
            {
                let Ok(parsed) = regex_syntax::parse(expression) else { continue };
                let HirKind::Class(Class::Unicode(class)) = parsed.kind() else { continue };
                for range in class.ranges() {
                    for entry in &mut table[range.start() as usize..=range.end() as usize] {
                        *entry |= bit;
                    }
                }
            }
            Self(table)
        })
    }

    /// The bits of a character.
    pub fn of(&self, c: char) -> u8 {
        self.0[c as usize]
    }
}
