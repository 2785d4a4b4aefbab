//! How byte-level BPE vocabularies split text before merging: the splits that kvant knows, by upstream's names.
//!
//! Source: llama.cpp's `src/llama-vocab.cpp` for names, the models' own `tokenizer.json` for the expressions.

use super::TokenizerError;

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
        TokenizerError::PreTokenizer { found: found.into(), known: known.join(", ") }
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
