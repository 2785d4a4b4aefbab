//! A vocabulary as plain data, whatever file it came from.

use super::PreTokenizer;

/// What a token is, in GGUF's numbering (1 to 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary text.
    Normal = 1,
    /// Stands for what the vocabulary cannot say.
    Unknown = 2,
    /// Steers the model; no text.
    Control = 3,
    /// Text that is always one token.
    UserDefined = 4,
    /// A hole in the numbering.
    Unused = 5,
    /// One byte, `<0x41>`.
    Byte = 6,
}

/// The two ways of merging that kvant knows.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Byte-level BPE (GGUF `gpt2`): merges in order of rank, each "left right".
    BytePair {
        /// Merges, first is best.
        merges: Vec<(String, String)>,
        /// How text is split before merging.
        pre_tokenizer: PreTokenizer,
        /// Whether a word that is a token is taken whole without merging.
        ignore_merges: bool,
    },
    /// SentencePiece BPE (GGUF `llama`): a score for each token, the highest merges first.
    SentencePiece {
        /// One score a token.
        scores: Vec<f32>,
        /// Whether a space goes before a text.
        add_space_prefix: bool,
    },
}

/// A vocabulary.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// Every token's text as the file spells it.
    pub tokens: Vec<String>,
    /// What each is; as many as tokens.
    pub kinds: Vec<TokenKind>,
    /// How text becomes tokens.
    pub kind: Kind,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Stands for the unknown.
    pub unknown: Option<u32>,
    /// Fills batches.
    pub padding: Option<u32>,
    /// Whether texts get BOS.
    pub add_bos: bool,
    /// Whether texts get EOS.
    pub add_eos: bool,
    /// More tokens that end an answer (`generation_config`'s list).
    pub more_ends: Vec<u32>,
    /// The model's own chat template.
    pub chat_template: Option<String>,
}

/// Control tokens that end an answer wherever they occur, as in llama.cpp's `llama-vocab.cpp`.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end▁of▁sentence|>",
    "<end_of_utterance>",
];

impl Vocabulary {
    /// Every token that ends an answer, each once.
    pub(super) fn end_of_generation(&self) -> Vec<u32> {
        let mut ends: Vec<u32> =
            self.eos.into_iter().chain(self.eot).chain(self.more_ends.iter().copied()).collect();
        for (id, token) in self.tokens.iter().enumerate() {
            let special = matches!(self.kinds[id], TokenKind::Control | TokenKind::UserDefined);
            if special && ENDS.contains(&token.as_str()) {
                ends.push(id as u32);
            }
        }
        ends.sort_unstable();
        ends.dedup();
        ends.retain(|&id| (id as usize) < self.tokens.len());
        ends
    }

    pub(super) fn adds_space(&self) -> bool {
        matches!(self.kind, Kind::SentencePiece { add_space_prefix: true, .. })
    }
}
