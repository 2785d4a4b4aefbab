//! How byte-level BPE vocabularies split text before merging: the splits that kvant knows, by upstream's names.
//!
//! Source: llama.cpp's `src/llama-vocab.cpp` for names, the models' own `tokenizer.json` for the expressions.

use super::TokenizerError;
use super::classes::{Classes, LETTER, MARK, NUMBER, SPACE};

/// A split that kvant knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreTokenizer {
    /// GPT-2's.
    Gpt2,
    /// Llama 3's.
    LlamaBpe,
    /// GPT-2's after every digit stands alone.
    Smollm,
    /// Qwen 2's: Llama 3's with single digits.
    Qwen2,
    /// Qwen 3.5's: Qwen 2's with combining marks in words.
    Qwen35,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_BPE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Names that upstream gives to each split; the first is what kvant writes.
const NAMES: &[(PreTokenizer, &[&str])] = &[
    (
        PreTokenizer::Gpt2,
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
        ],
    ),
    (
        PreTokenizer::LlamaBpe,
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
    ),
    (
        PreTokenizer::Smollm,
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
    ),
    (PreTokenizer::Qwen2, &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"]),
    (PreTokenizer::Qwen35, &["qwen35"]),
];

impl PreTokenizer {
    /// The split of upstream's name.
    ///
    /// # Errors
    /// [`TokenizerError::PreTokenizer`] for a name that is not known.
    pub fn by_name(name: &str) -> Result<Self, TokenizerError> {
        let found = NAMES.iter().find(|(_, names)| names.contains(&name)).map(|(split, _)| *split);
        found.ok_or_else(|| Self::unknown(name))
    }

    /// The split of a regular expression in a `tokenizer.json`.
    pub(super) fn by_expression(expression: &str) -> Option<Self> {
        [(Self::Gpt2, GPT2), (Self::LlamaBpe, LLAMA_BPE), (Self::Qwen2, QWEN2), (Self::Qwen35, QWEN35)]
            .into_iter()
            .find(|(_, known)| *known == expression)
            .map(|(split, _)| split)
    }

    pub(super) fn unknown(found: impl Into<String>) -> TokenizerError {
        let known: Vec<&str> = NAMES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut found = found.into();
        if let Some((end, _)) = found.char_indices().nth(200) {
            found.truncate(end);
        }
        TokenizerError::PreTokenizer { found, known: known.join(", ") }
    }

    /// Upstream's first name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(split, _)| *split == self).map_or("gpt-2", |(_, names)| names[0])
    }

    /// The expressions, applied one after another; each piece of text that matches or lies between is a word.
    pub(super) fn expressions(self) -> &'static [&'static str] {
        match self {
            Self::Gpt2 => &[GPT2],
            Self::LlamaBpe => &[LLAMA_BPE],
            Self::Smollm => &[r"\p{N}", GPT2],
            Self::Qwen2 => &[QWEN2],
            Self::Qwen35 => &[QWEN35],
        }
    }

    /// Whether upstream takes words whole that are tokens, where the file does not say.
    pub(super) fn ignores_merges(self) -> bool {
        self == Self::LlamaBpe
    }

    /// Whether upstream adds BOS where the file does not say.
    pub(super) fn adds_bos(self) -> bool {
        self == Self::LlamaBpe
    }
}

/// Where a text is cut by hand: the same cuts as the expressions', in time that grows with the text alone. An engine
/// that backtracks gives up on long runs of spaces.
impl PreTokenizer {
    /// Hands every word of `text` to `take`, in order.
    pub(super) fn words<'a>(self, text: &'a str, take: &mut dyn FnMut(&'a str)) {
        let rule = match self {
            Self::Gpt2 => Rule::GPT2,
            Self::LlamaBpe => Rule { digits: 3, ..Rule::NEW },
            Self::Qwen2 => Rule::NEW,
            Self::Qwen35 => Rule { letters: LETTER | MARK, ..Rule::NEW },
            Self::Smollm => {
                // Every digit stands alone; what lies between is a text of its own.
                let classes = Classes::get();
                let mut start = 0;
                for (at, c) in text.char_indices() {
                    if classes.of(c) & NUMBER != 0 {
                        Rule::GPT2.words(&text[start..at], take);
                        start = at + c.len_utf8();
                        take(&text[at..start]);
                    }
                }
                return Rule::GPT2.words(&text[start..], take);
            }
        };
        rule.words(text, take);
    }
}

/// What tells the splits apart.
#[derive(Clone, Copy)]
struct Rule {
    /// The oldest one: a space goes before words of every kind, contractions are in lower case, digits run on.
    gpt2: bool,
    /// What words consist of.
    letters: u8,
    /// Digits of one word at most.
    digits: usize,
}

impl Rule {
    const GPT2: Self = Self { gpt2: true, letters: LETTER, digits: usize::MAX };
    const NEW: Self = Self { gpt2: false, letters: LETTER, digits: 1 };

    fn words<'a>(self, text: &'a str, take: &mut dyn FnMut(&'a str)) {
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.first(rest));
            take(word);
            rest = after;
        }
    }

    /// Bytes of the first word of a text that is not empty.
    fn first(self, text: &str) -> usize {
        let classes = Classes::get();
        let mut characters = text.chars();
        let Some(first) = characters.next() else { return 0 };
        if first == '\''
            && let Some(length) = contraction(characters.as_str(), !self.gpt2)
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
            return if self.gpt2 { end } else { run(end, &|c| matches!(c, '\r' | '\n')) };
        }
        // White space: up to its last line break, else all but the last character, which begins the next word.
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

/// Bytes of a contraction's letters at the beginning of `text`; in any case, the long s included, where `folded`.
fn contraction(text: &str, folded: bool) -> Option<usize> {
    let fold = |c: char| match c {
        '\u{17f}' if folded => 's',
        c if folded => c.to_ascii_lowercase(),
        c => c,
    };
    let mut characters = text.chars();
    let first = characters.next()?;
    let second = characters.next();
    match (fold(first), second.map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => Some(first.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(2),
        _ => None,
    }
}
