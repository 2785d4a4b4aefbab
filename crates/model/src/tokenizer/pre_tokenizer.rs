//! Pre-tokenizers of byte-level BPE: the rules that split text into words before merging. kvant knows the rules below
//! by upstream's names.
//!
//! Sources: llama.cpp's `src/llama-vocab.cpp` for the names; the `tokenizer.json` of the models for the regular
//! expressions.

use super::TokenizerError;
use super::classes::{Classes, LETTER, MARK, NUMBER, SPACE};

/// A rule that splits text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreTokenizer {
    /// The rule of GPT-2.
    Gpt2,
    /// The rule of Llama 3.
    LlamaBpe,
    /// The rule of SmolLM: every digit is one word, and the rule of GPT-2 splits the text between digits.
    Smollm,
    /// The rule of Qwen 2: as Llama 3, but every digit is one word.
    Qwen2,
    /// The rule of Qwen 3.5: as Qwen 2, but words may also contain combining marks.
    Qwen35,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_BPE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Upstream's names of each rule. kvant writes the first name to GGUF files.
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
    /// The rule with this upstream name.
    ///
    /// # Errors
    /// [`TokenizerError::PreTokenizer`] for a name that is not known.
    pub fn by_name(name: &str) -> Result<Self, TokenizerError> {
        let found = NAMES.iter().find(|(_, names)| names.contains(&name)).map(|(split, _)| *split);
        found.ok_or_else(|| Self::unknown(name))
    }

    /// The rule with this regular expression in a `tokenizer.json`; `None` for an unknown expression.
    pub(super) fn by_expression(expression: &str) -> Option<Self> {
        [(Self::Gpt2, GPT2), (Self::LlamaBpe, LLAMA_BPE), (Self::Qwen2, QWEN2), (Self::Qwen35, QWEN35)]
            .into_iter()
            .find(|(_, known)| *known == expression)
            .map(|(split, _)| split)
    }

    /// The error for an unknown pre-tokenizer with this name or description.
    pub(super) fn unknown(found: impl Into<String>) -> TokenizerError {
        let known: Vec<&str> = NAMES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut found = found.into();
        if let Some((end, _)) = found.char_indices().nth(200) {
            found.truncate(end);
        }
        TokenizerError::PreTokenizer { found, known: known.join(", ") }
    }

    /// The upstream name that kvant writes to GGUF files.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(split, _)| *split == self).map_or("gpt-2", |(_, names)| names[0])
    }

    /// The regular expressions of the rule. Each expression splits every part that the expression before it gave. The
    /// parts are the matches and the texts between them. The last parts are the words.
    pub(super) fn expressions(self) -> &'static [&'static str] {
        match self {
            Self::Gpt2 => &[GPT2],
            Self::LlamaBpe => &[LLAMA_BPE],
            Self::Smollm => &[r"\p{N}", GPT2],
            Self::Qwen2 => &[QWEN2],
            Self::Qwen35 => &[QWEN35],
        }
    }

    /// True if upstream's default is to encode a word that is a token as this token, without merging. GGUF has no key
    /// for this setting.
    pub(super) fn ignores_merges(self) -> bool {
        self == Self::LlamaBpe
    }

    /// True if upstream adds BOS if the file does not have a setting for it.
    pub(super) fn adds_bos(self) -> bool {
        self == Self::LlamaBpe
    }
}

/// Hand-written code for the rules. The words are the same as those of the regular expressions, and the time is linear
/// in the length of the text. A backtracking regex engine fails on long runs of spaces.
impl PreTokenizer {
    /// Calls `take` with every word of `text`, in order.
    pub(super) fn words<'a>(self, text: &'a str, take: &mut dyn FnMut(&'a str)) {
        let rule = match self {
            Self::Gpt2 => Rule::GPT2,
            Self::LlamaBpe => Rule { digits: 3, ..Rule::NEW },
            Self::Qwen2 => Rule::NEW,
            Self::Qwen35 => Rule { letters: LETTER | MARK, ..Rule::NEW },
            Self::Smollm => {
                // Every digit is one word. The text between two digits is split separately.
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

/// The parameters in which the rules differ.
#[derive(Clone, Copy)]
struct Rule {
    /// True if this is the rule of GPT-2: a space may begin words of every kind, contractions must be in lower case,
    /// and a run of digits is one word.
    gpt2: bool,
    /// Character classes of a word of letters (bits of `classes`).
    letters: u8,
    /// Largest number of digits of one word.
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

    /// Length in bytes of the first word of `text`; 0 for an empty text.
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

/// Length in bytes of the letters of a contraction at the beginning of `text`, which is the text after the apostrophe;
/// `None` if there is no contraction. If `folded` is true, upper-case letters and the long s (ſ) also count.
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
