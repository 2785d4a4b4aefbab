//! Unicode classes of characters that occur in the regular expressions of pre-tokenizers.
//!
//! The table has one byte for each code point, with one bit for each class. It is made from the tables of the regex
//! engine. So hand-written rules and regular expressions always agree on the class of a character.

use regex_syntax::hir::{Class, HirKind};
use std::sync::OnceLock;

/// Letters: `\p{L}`.
pub(super) const LETTER: u8 = 1;
/// Numbers: `\p{N}`.
pub(super) const NUMBER: u8 = 2;
/// Combining marks: `\p{M}`.
pub(super) const MARK: u8 = 4;
/// White space: `\s`.
pub(super) const SPACE: u8 = 8;
/// Characters of words: `\w`.
pub(super) const WORD: u8 = 16;

/// Punctuation: `\p{P}`.
pub(super) const PUNCTUATION: u8 = 32;
/// Symbols: `\p{S}`.
pub(super) const SYMBOL: u8 = 64;
/// Control characters, format characters and private use.
pub(super) const CONTROL: u8 = 128;

/// Number of Unicode code points.
const CODE_POINTS: usize = 0x11_0000;

/// The classes of every code point.
pub(super) struct Classes(Vec<u8>);

impl Classes {
    /// Returns the table. The first call makes it.
    pub fn get() -> &'static Self {
        static TABLE: OnceLock<Classes> = OnceLock::new();
        TABLE.get_or_init(|| {
            let mut table = vec![0; CODE_POINTS];
            let expressions = [
                (r"\p{L}", LETTER),
                (r"\p{N}", NUMBER),
                (r"\p{M}", MARK),
                (r"\s", SPACE),
                (r"\w", WORD),
                (r"\p{P}", PUNCTUATION),
                (r"\p{S}", SYMBOL),
                (r"[\p{Cc}\p{Cf}\p{Co}]", CONTROL),
            ];
            for (expression, bit) in expressions {
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

    /// The class bits of a character.
    pub fn of(&self, c: char) -> u8 {
        self.0[c as usize]
    }
}
