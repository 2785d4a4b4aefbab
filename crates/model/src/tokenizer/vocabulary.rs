//! A vocabulary as plain data, independent of its file format.

use super::PreTokenizer;

/// The kind of a token, with GGUF's numbers 1 to 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary text.
    Normal = 1,
    /// Replaces text that the vocabulary cannot encode.
    Unknown = 2,
    /// Controls the model and encodes no text, for example BOS.
    Control = 3,
    /// Text that is always one token.
    UserDefined = 4,
    /// An id without a token.
    Unused = 5,
    /// One byte, for example `<0x41>`.
    Byte = 6,
}

/// The algorithm of a vocabulary, as far as GGUF can express it.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// BPE with merges (GGUF `gpt2` and `gemma4`). The pre-tokenizer determines how words are spelled.
    BytePair {
        /// Merges (left and right token) in order of rank; the first merge is done first.
        merges: Vec<(String, String)>,
        /// Rule that splits text into words before merging.
        pre_tokenizer: PreTokenizer,
        /// True if a word that is itself a token becomes this token, without merging.
        ignore_merges: bool,
    },
    /// SentencePiece BPE (GGUF `llama`). Every token has a score, and the merge that gives the highest score is done
    /// first.
    SentencePiece {
        /// One score for each token, indexed by id.
        scores: Vec<f32>,
        /// True if a space is added before a text.
        add_space_prefix: bool,
    },
    /// WordPiece (GGUF `bert`). A token at the beginning of a word begins with `▁`.
    WordPiece {
        /// True if text is changed to lower case.
        lowercase: bool,
        /// True if accents are removed.
        strip_accents: bool,
        /// Id of the token after a text, such as `[SEP]`.
        separator: Option<u32>,
    },
    /// Unigram (GGUF `t5`).
    Unigram {
        /// One score for each token, indexed by id.
        scores: Vec<f32>,
        /// SentencePiece's compiled rules that normalize text; empty for no rules.
        charsmap: Vec<u8>,
        /// True if a space is added before a text.
        add_space_prefix: bool,
        /// True if repeated spaces become one space.
        remove_extra_whitespaces: bool,
    },
    /// The algorithm of a Hugging Face folder that GGUF cannot express.
    Folder {
        /// The first setting that GGUF cannot express.
        reason: String,
    },
}

/// A vocabulary.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// Text of every token as the file spells it, indexed by id.
    pub tokens: Vec<String>,
    /// Kind of every token, indexed by id; as long as `tokens`.
    pub kinds: Vec<TokenKind>,
    /// The algorithm that converts text to tokens.
    pub kind: Kind,
    /// Id of the token that begins a text.
    pub bos: Option<u32>,
    /// Id of the token that ends a text.
    pub eos: Option<u32>,
    /// Id of the token that ends a turn.
    pub eot: Option<u32>,
    /// Id of the unknown token.
    pub unknown: Option<u32>,
    /// Id of the token that pads the texts of a batch.
    pub padding: Option<u32>,
    /// Id of the token that hides a token of a text.
    pub mask: Option<u32>,
    /// True if BOS is added before a text.
    pub add_bos: bool,
    /// True if EOS is added after a text.
    pub add_eos: bool,
    /// Ids of added tokens that take the white space before them. GGUF has no key for this; it follows from names.
    pub takes_before: Vec<u32>,
    /// Ids of added tokens that take the white space after them.
    pub takes_after: Vec<u32>,
    /// Ids of further tokens that end an answer (the list in `generation_config.json`).
    pub more_ends: Vec<u32>,
    /// The model's own chat template.
    pub chat_template: Option<String>,
}

/// Texts of control tokens that end an answer in every model. Source: llama.cpp's `llama-vocab.cpp`.
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
    // The following tokens end a file or a filled gap (fill-in-the-middle).
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
];

/// Texts of control tokens that some files do not mark as control tokens.
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

/// True if the text of a token shows that it is a control token, independent of its kind in the file.
///
/// Source: `does_token_look_special` of llama.cpp's converter, all of whose names are included here.
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

/// True if every reader of a GGUF file ends an answer at a token with this text.
pub(super) fn ends_everywhere(text: &str) -> bool {
    ENDS.contains(&text)
}

impl Vocabulary {
    /// The ids of all tokens that end an answer, in ascending order and without duplicates.
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
        // In models whose answers end with a call or a return, `<|end|>` ends only a message. The answer continues with
        // the next message.
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
