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

/// How a vocabulary is used, as far as a GGUF can say it.
#[derive(Clone, Debug, PartialEq)]
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
    /// As the files of a Hugging Face folder say, in a way that has no words in GGUF.
    Folder {
        /// The first thing that has none.
        reason: String,
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

/// Texts of tokens that end an answer wherever they occur, and are control tokens, as in llama.cpp's `llama-vocab.cpp`.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // Those that end a file or a hole that is filled in.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
];

/// Texts that steer every model that has them, though some files don't mark them so.
const SPECIAL: &[&str] = &[
    "<pad>",
    "<mask>",
    "<2mass>",
    "[@BOS@]",
    "<s>",
    "</s>",
    "<unk>",
    "<bos>",
    "<eos>",
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[BOS]",
    "[EOS]",
    "<start_of_turn>",
    "<end_of_turn>",
];

/// Whether a token steers the model by its looks, whatever its file calls it.
///
/// Source: `does_token_look_special` of llama.cpp's converter, whose names are all here.
pub(super) fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| {
        text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
    };
    SPECIAL.contains(&text)
        || ENDS.contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// Whether every reader of a GGUF ends an answer at a token of this text.
pub(super) fn ends_everywhere(text: &str) -> bool {
    ENDS.contains(&text)
}

impl Vocabulary {
    /// Every token that ends an answer, each once.
    pub(super) fn end_of_generation(&self) -> Vec<u32> {
        let mut ends: Vec<u32> =
            self.eos.into_iter().chain(self.eot).chain(self.more_ends.iter().copied()).collect();
        let texts: Vec<(u32, &str)> = (0..)
            .zip(&self.tokens)
            .filter(|(id, token)| {
                let kind = self.kinds[*id as usize];
                matches!(kind, TokenKind::Control | TokenKind::UserDefined) && ends_everywhere(token)
            })
            .map(|(id, token)| (id, token.as_str()))
            .collect();
        let has = |text: &str| texts.iter().any(|(_, t)| *t == text);
        // Where a call or a return ends an answer, the end of a message goes on to the next one.
        let goes_on = has("<|call|>") && has("<|return|>") || has("<|calls|>") && has("<|flush|>");
        let named = ends.clone();
        ends.extend(texts.iter().filter(|(_, t)| !(goes_on && *t == "<|end|>")).map(|(id, _)| *id));
        if goes_on {
            ends.retain(|id| {
                named.contains(id) || self.tokens.get(*id as usize).is_none_or(|t| t != "<|end|>")
            });
        }
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}
