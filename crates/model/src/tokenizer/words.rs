//! Hand-written code for the expressions that most byte-level BPE tokenizers use: GPT-2's, and Llama 3's with its
//! variants. The words are the same as those of the regular expressions, and the time is linear in the length of the
//! text. A backtracking regex engine fails on long runs of spaces.
//!
//! Sources: the `tokenizer.json` of the models; llama.cpp's `src/unicode.cpp` for [`Contractions::Ascii`].

use super::classes::{Classes, LETTER, MARK, NUMBER, SPACE};

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3's expression with runs of digits of any length, after a step that cuts digits (MiniCPM 5).
pub(super) const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's expression in another spelling (BailingMoE). The possessive repetitions do not change the matches.
pub(super) const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
/// Qwen 2's expression; a word of other characters does not take the line breaks after it (Seed-Coder).
pub(super) const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The letters of English contractions that are a word after an apostrophe (`'s`, `'ll`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contractions {
    /// No contraction is a word.
    None,
    /// Lower case only.
    Lower,
    /// Lower and upper case of ASCII: llama.cpp's reading of `(?i:…)`.
    Ascii,
    /// `(?i:…)` of the regex engines: also the long s (ſ).
    Folded,
}

/// A rule that splits text into words. The fields are the parameters in which the rules differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// True if this is the rule of GPT-2: a space may begin words of every kind, and a run of digits is one word.
    gpt2: bool,
    contractions: Contractions,
    /// Character classes of a word of letters (bits of `classes`).
    letters: u8,
    /// Largest number of digits of one word.
    digits: usize,
    /// True if a word of other characters takes the line breaks after it.
    tail: bool,
}

impl Words {
    pub const GPT2: Self = Self {
        gpt2: true,
        contractions: Contractions::Lower,
        letters: LETTER,
        digits: usize::MAX,
        tail: false,
    };
    /// The rule of Qwen 2 in llama.cpp.
    pub const QWEN2: Self =
        Self { gpt2: false, contractions: Contractions::Ascii, letters: LETTER, digits: 1, tail: true };
    pub const LLAMA3: Self = Self { digits: 3, ..Self::QWEN2 };
    pub const QWEN35: Self = Self { letters: LETTER | MARK, ..Self::QWEN2 };
    pub const MINICPM5: Self = Self { digits: usize::MAX, ..Self::QWEN2 };
    pub const SEED_CODER: Self = Self { tail: false, ..Self::QWEN2 };
    /// The rule of Qwen 2 without contractions (Ufakzeka).
    pub const UFAKZEKA: Self = Self { contractions: Contractions::None, ..Self::QWEN2 };

    /// The rule of this regular expression in a `tokenizer.json`; `None` for an unknown expression.
    pub fn by_expression(expression: &str) -> Option<Self> {
        let known = [
            (GPT2, Self::GPT2),
            (LLAMA3, Self::LLAMA3),
            (QWEN2, Self::QWEN2),
            (QWEN35, Self::QWEN35),
            (MINICPM5, Self::MINICPM5),
            (BAILING, Self::QWEN2),
            (SEED_CODER, Self::SEED_CODER),
        ];
        known.into_iter().find(|(known, _)| *known == expression).map(|(_, words)| match words.gpt2 {
            true => words,
            false => Self { contractions: Contractions::Folded, ..words },
        })
    }

    /// Calls `take` with every word of `text`, in order.
    pub fn split<'a>(self, text: &'a str, take: &mut dyn FnMut(&'a str)) {
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.first(rest));
            take(word);
            rest = after;
        }
    }

    /// Length in bytes of the first word of `text`; 0 for an empty text.
    fn first(self, text: &str) -> usize {
        let classes = Classes::get();
        let mut characters = text.chars();
        let Some(first) = characters.next() else { return 0 };
        if first == '\''
            && let Some(length) = self.contractions.length(characters.as_str())
        {
            return 1 + length;
        }
        let class = classes.of(first);
        let other = |c: char| classes.of(c) & (SPACE | NUMBER | self.letters) == 0;
        let run = |from: usize, is: &dyn Fn(char) -> bool| {
            text[from..].find(|c| !is(c)).map_or(text.len(), |length| from + length)
        };
        let letter = |c: char| classes.of(c) & self.letters != 0;
        let number = |c: char| classes.of(c) & NUMBER != 0;
        let after = first.len_utf8();
        let second = characters.next();
        let second_is = |is: &dyn Fn(char) -> bool| second.is_some_and(is);
        let leads = if self.gpt2 {
            first == ' '
        } else {
            !matches!(first, '\r' | '\n') && class & (LETTER | NUMBER) == 0
        };
        if letter(first) || leads && second_is(&letter) {
            return run(after, &letter);
        }
        if self.gpt2 && (number(first) || first == ' ' && second_is(&number)) {
            return run(after, &number);
        }
        if number(first) {
            let digits = text.chars().take(self.digits).take_while(|c| number(*c));
            return digits.map(char::len_utf8).sum();
        }
        if other(first) || first == ' ' && second_is(&other) {
            let end = run(after, &other);
            return if self.tail { run(end, &|c| matches!(c, '\r' | '\n')) } else { end };
        }
        // White space: the word ends after the last line break (not in the rule of GPT-2). Without a line break, the
        // word ends before the last character of the white space, because this character begins the next word.
        let end = run(0, &|c| classes.of(c) & SPACE != 0);
        if !self.gpt2
            && let Some(at) = text[..end].rfind(['\r', '\n'])
        {
            return at + 1;
        }
        if end == text.len() {
            return end;
        }
        match text[..end].char_indices().next_back() {
            Some((last, _)) if last > 0 => last,
            _ => end,
        }
    }
}

impl Contractions {
    /// Length in bytes of the letters of a contraction at the beginning of `text`, which is the text after the
    /// apostrophe; `None` if there is no contraction.
    fn length(self, text: &str) -> Option<usize> {
        let fold = |c: char| match (self, c) {
            (Self::Folded, '\u{17f}') => 's',
            (Self::Folded | Self::Ascii, c) => c.to_ascii_lowercase(),
            (_, c) => c,
        };
        if self == Self::None {
            return None;
        }
        let mut characters = text.chars();
        let first = characters.next()?;
        let second = characters.next();
        match (fold(first), second.map(fold)) {
            ('s' | 't' | 'm' | 'd', _) => Some(first.len_utf8()),
            ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(2),
            _ => None,
        }
    }
}
