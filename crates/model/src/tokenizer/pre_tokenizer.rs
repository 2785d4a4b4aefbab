//! Pre-tokenizers of BPE vocabularies in GGUF: the rules that split text into words before merging, by upstream's names.
//!
//! The rules give the words of llama.cpp. In some rules they differ from those of the model's `tokenizer.json`, because
//! llama.cpp's engine does not separate upper from lower case outside of ASCII, or counts digits in another way.
//!
//! Sources: llama.cpp's `src/llama-vocab.cpp` and `src/unicode.cpp` for the names and for the differences; the
//! `tokenizer.json` of the models for the regular expressions. llama.cpp's tables are those of Unicode 15.1, and the
//! tables here are newer. So the words of later characters may differ.

use super::TokenizerError;
use super::cut::{Cut, Spaces, Thousands};
use super::expressions::*;
use super::words::{self, Words};

/// A rule that splits text into words, with upstream's names.
#[derive(Clone, Copy)]
pub struct PreTokenizer(&'static Rule);

/// How the symbols of a word are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbols {
    /// Printable characters for bytes (GPT-2).
    Bytes,
    /// Characters; `▁` spells a space, and byte tokens spell characters that the vocabulary lacks (Gemma 4). If `lines`
    /// is true, a word of line breaks that is a token becomes this token.
    Marks { lines: bool },
    /// Characters, and byte tokens for characters that the vocabulary lacks. If `drops` is true, white space is no word.
    Plain { drops: bool },
}

/// One step of a rule. It cuts every part that the step before it gave.
enum Step {
    Words(Words),
    Expression(&'static str, Spaces),
    Thousands(Thousands),
}

struct Rule {
    /// Upstream's names. kvant writes the first name to GGUF files.
    names: &'static [&'static str],
    steps: &'static [Step],
    /// The expressions of a `tokenizer.json` (see `express`) for which kvant writes this rule. They may differ from
    /// `steps` where llama.cpp differs from the model.
    folder: &'static [&'static str],
    symbols: Symbols,
    /// True if a word that is a token becomes this token, without merging. GGUF has no key for this setting.
    ignores_merges: bool,
    /// True if BOS is added if the file does not have a setting for it.
    adds_bos: bool,
}

const PLAIN: Rule = Rule {
    names: &[],
    steps: &[],
    folder: &[],
    symbols: Symbols::Bytes,
    ignores_merges: false,
    adds_bos: false,
};

/// The rules. If several rules have the same expressions of a folder, the first one with the same `ignores_merges`
/// counts, else the first one.
static RULES: &[Rule] = &[
    Rule {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
            "roberta-bpe",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        steps: &[Step::Words(Words::GPT2)],
        folder: &[words::GPT2],
        ..PLAIN
    },
    Rule {
        names: &[
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
        steps: &[Step::Words(Words::LLAMA3)],
        folder: &[words::LLAMA3],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Rule {
        names: &["smaug-bpe", "dbrx", "chatglm-bpe"],
        steps: &[Step::Words(Words::LLAMA3)],
        folder: &[words::LLAMA3],
        ..PLAIN
    },
    Rule { names: &["glm4", "glm5"], steps: &[Step::Words(Words::LLAMA3)], ignores_merges: true, ..PLAIN },
    Rule {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        steps: &[Step::Expression(r"\p{N}", Spaces::None), Step::Words(Words::GPT2)],
        folder: &[r"\p{N}", words::GPT2],
        ..PLAIN
    },
    Rule {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        steps: &[Step::Words(Words::QWEN2)],
        folder: &[words::QWEN2],
        ..PLAIN
    },
    Rule {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        steps: &[Step::Words(Words::QWEN2)],
        folder: &[words::BAILING],
        ..PLAIN
    },
    Rule { names: &["qwen35"], steps: &[Step::Words(Words::QWEN35)], folder: &[words::QWEN35], ..PLAIN },
    Rule { names: &["ufakzeka"], steps: &[Step::Words(Words::UFAKZEKA)], ..PLAIN },
    Rule {
        names: &["seed-coder"],
        steps: &[Step::Words(Words::SEED_CODER)],
        folder: &[words::SEED_CODER],
        ..PLAIN
    },
    Rule {
        names: &["minicpm5"],
        steps: &[Step::Expression(r"\p{N}{1,3}", Spaces::None), Step::Words(Words::MINICPM5)],
        folder: &[r"\p{N}{1,3}", words::MINICPM5],
        ignores_merges: true,
        ..PLAIN
    },
    Rule {
        names: &["laguna"],
        steps: &[Step::Expression(r"[^\n]+|\n+", Spaces::None), Step::Words(Words::QWEN2)],
        ..PLAIN
    },
    Rule {
        names: &["deepseek-llm"],
        steps: &[
            Step::Expression(r"[\r\n]", Spaces::None),
            Step::Expression(LATIN_AND_MORE, Spaces::None),
            Step::Expression(PUNCTUATION_AND_MORE, Spaces::None),
            Step::Expression(r"\s+$", Spaces::None),
            Step::Expression(HAN_AND_MORE, Spaces::None),
            Step::Expression(r"\p{N}+", Spaces::None),
        ],
        folder: &[
            r"[\r\n]",
            original::LATIN_AND_MORE,
            original::PUNCTUATION_AND_MORE,
            r"\s+$",
            original::HAN_AND_MORE,
            r"\p{N}",
        ],
        ..PLAIN
    },
    Rule {
        names: &["deepseek-coder"],
        steps: &[
            Step::Expression(r"[\r\n]", Spaces::None),
            Step::Expression(r"\s?\p{L}+", Spaces::None),
            Step::Expression(r"\s?\p{P}+", Spaces::None),
            Step::Expression(HAN_AND_MORE, Spaces::None),
            Step::Expression(r"\p{N}", Spaces::None),
        ],
        folder: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", original::HAN_AND_MORE, r"\p{N}"],
        ..PLAIN
    },
    Rule {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        steps: &[
            Step::Expression(r"\p{N}{1,3}", Spaces::None),
            Step::Expression(HAN_AND_KANA, Spaces::None),
            Step::Expression(DEEPSEEK3, Spaces::KeepLast),
        ],
        folder: &[r"\p{N}{1,3}", HAN_AND_KANA, original::DEEPSEEK3],
        ..PLAIN
    },
    Rule {
        names: &["spark2_5"],
        steps: &[
            Step::Expression(r"\p{N}{1,3}", Spaces::None),
            Step::Expression(HAN_AND_KANA, Spaces::None),
            Step::Expression(SPARK, Spaces::KeepLast),
            Step::Expression(r"\p{N}", Spaces::None),
        ],
        ..PLAIN
    },
    Rule {
        names: &["youtu"],
        steps: &[Step::Expression(YOUTU_SCRIPTS, Spaces::None), Step::Expression(YOUTU, Spaces::KeepLast)],
        ignores_merges: true,
        ..PLAIN
    },
    Rule {
        names: &["falcon"],
        steps: &[
            Step::Expression(r"[\p{P}$+<=>^~|`]+", Spaces::None),
            Step::Words(Words::GPT2),
            Step::Expression("[0-9][0-9][0-9]", Spaces::None),
        ],
        folder: &[PUNCTUATION_RUNS, words::GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ..PLAIN
    },
    Rule {
        names: &["default"],
        steps: &[
            Step::Expression(r"[\p{P}$+<=>^~|]+", Spaces::None),
            Step::Words(Words::GPT2),
            Step::Expression(r"\p{N}+", Spaces::None),
            Step::Expression("[0-9][0-9][0-9]", Spaces::None),
        ],
        ..PLAIN
    },
    Rule {
        names: &["bloom", "gpt3-finnish", "poro-chat"],
        steps: &[Step::Expression(BLOOM, Spaces::None)],
        folder: &[original::BLOOM],
        ..PLAIN
    },
    Rule {
        names: &["viking"],
        steps: &[Step::Expression(BLOOM, Spaces::None), Step::Expression(r"\p{N}", Spaces::None)],
        folder: &[original::BLOOM, r"\p{N}"],
        ..PLAIN
    },
    Rule {
        names: &["tekken"],
        steps: &[Step::Expression(TEKKEN, Spaces::KeepLast)],
        folder: &[original::TEKKEN],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Rule {
        names: &["chameleon"],
        steps: &[
            Step::Expression("<sentinel:[0-9]+>", Spaces::None),
            Step::Expression("IMGIMG[A-I]{1,4}Z", Spaces::None),
            Step::Expression(r"[\t\n]|    |  ", Spaces::None),
            Step::Expression(r"\p{N}", Spaces::None),
            Step::Expression(r"[\p{P}!-/:-@\[-`{-~]", Spaces::None),
            Step::Words(Words::GPT2),
        ],
        folder: &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            PUNCTUATION,
            words::GPT2,
        ],
        adds_bos: true,
        ..PLAIN
    },
    Rule {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        steps: &[Step::Expression(GPT4O, Spaces::KeepLast)],
        folder: &[original::GPT4O],
        ..PLAIN
    },
    Rule {
        names: &["granite-embed-multi-97m"],
        steps: &[Step::Expression(GRANITE_EMBEDDING, Spaces::KeepLast)],
        ignores_merges: true,
        ..PLAIN
    },
    Rule {
        names: &["tiny_aya", "cohere2moe"],
        steps: &[Step::Thousands(Thousands::Numbers), Step::Expression(TINY_AYA, Spaces::KeepLast)],
        folder: &[original::TINY_AYA_DIGITS, original::GPT4O],
        ..PLAIN
    },
    Rule { names: &["kimi-k2"], steps: &[Step::Expression(KIMI, Spaces::KeepLast)], ..PLAIN },
    Rule {
        names: &["superbpe"],
        steps: &[Step::Expression(r"\p{N}+", Spaces::None), Step::Thousands(Thousands::Ascii)],
        folder: &[r"\p{N}+", original::SUPERBPE_DIGITS],
        ..PLAIN
    },
    Rule {
        names: &["afmoe"],
        steps: &[
            Step::Thousands(Thousands::Numbers),
            Step::Expression(AFMOE_SCRIPTS, Spaces::None),
            Step::Expression(DEEPSEEK3, Spaces::KeepLast),
        ],
        ..PLAIN
    },
    Rule {
        names: &["exaone-moe"],
        steps: &[Step::Expression(EXAONE_MOE, Spaces::KeepLast)],
        folder: &[original::EXAONE_MOE],
        ..PLAIN
    },
    Rule {
        names: &["jais-2"],
        steps: &[Step::Expression(JAIS2, Spaces::Cascade)],
        folder: &[original::JAIS2],
        ..PLAIN
    },
    Rule {
        names: &["gemma4", "granite-embed-multi-311m"],
        steps: &[Step::Expression(r"[^\n]+|\n+", Spaces::None)],
        adds_bos: true,
        symbols: Symbols::Marks { lines: true },
        ..PLAIN
    },
    Rule {
        names: &["sarvam-moe"],
        steps: &[Step::Expression(r"[^\n]+|\n+", Spaces::None)],
        symbols: Symbols::Marks { lines: false },
        ..PLAIN
    },
    Rule {
        names: &["whitespace"],
        steps: &[Step::Expression(r"\S+", Spaces::None)],
        symbols: Symbols::Plain { drops: false },
        ..PLAIN
    },
];

/// The rule of the model `whitespace`.
static WHITESPACE: Rule = Rule {
    names: &["whitespace"],
    steps: &[Step::Expression(r"\S+", Spaces::None)],
    symbols: Symbols::Plain { drops: true },
    ..PLAIN
};

impl PreTokenizer {
    /// The rule that upstream uses for a model that has only one rule; `None` for the model `gpt2`.
    pub(super) fn of_model(model: &str) -> Option<Self> {
        match model {
            "gemma4" => Self::by_name("gemma4").ok(),
            "whitespace" => Some(Self(&WHITESPACE)),
            _ => None,
        }
    }

    /// The value of `tokenizer.ggml.model` for a vocabulary with this rule.
    pub(super) fn model(self) -> &'static str {
        match self.0.symbols {
            Symbols::Plain { drops: true } => "whitespace",
            Symbols::Marks { .. } if self.name() == "gemma4" => "gemma4",
            _ => "gpt2",
        }
    }

    /// The rule with this upstream name.
    ///
    /// # Errors
    /// [`TokenizerError::PreTokenizer`] for a name that is not known.
    pub fn by_name(name: &str) -> Result<Self, TokenizerError> {
        let found = RULES.iter().find(|rule| rule.names.contains(&name));
        found.map(Self).ok_or_else(|| Self::unknown(name))
    }

    /// All names that upstream knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RULES.iter().flat_map(|rule| rule.names.iter().copied())
    }

    /// The rule for these expressions of a `tokenizer.json`; `None` for unknown expressions.
    pub(super) fn by_expressions(expressions: &[String], ignores_merges: bool) -> Option<Self> {
        let same = |rule: &&Rule| !rule.folder.is_empty() && rule.folder == expressions;
        let all = || RULES.iter().filter(same);
        all().find(|rule| rule.ignores_merges == ignores_merges).or(all().next()).map(Self)
    }

    /// The error for an unknown pre-tokenizer with this name or description.
    pub(super) fn unknown(found: impl Into<String>) -> TokenizerError {
        let known: Vec<&str> = Self::names().collect();
        let mut found = found.into();
        if let Some((end, _)) = found.char_indices().nth(200) {
            found.truncate(end);
        }
        TokenizerError::PreTokenizer { found, known: known.join(", ") }
    }

    /// The upstream name that kvant writes to GGUF files.
    pub fn name(self) -> &'static str {
        self.0.names[0]
    }

    /// The cuts of the rule, in order.
    ///
    /// # Errors
    /// [`TokenizerError::Key`] if the regex engine refuses an expression.
    pub(super) fn cuts(self) -> Result<Vec<Cut>, TokenizerError> {
        let cut = |step: &Step| match step {
            Step::Words(words) => Ok(Cut::Words(*words)),
            Step::Expression(expression, spaces) => Cut::linear(expression, *spaces),
            Step::Thousands(groups) => Ok(Cut::Thousands(*groups)),
        };
        self.0.steps.iter().map(cut).collect()
    }

    /// How the symbols of a word are spelled.
    pub(super) fn symbols(self) -> Symbols {
        self.0.symbols
    }

    /// True if upstream's default is to encode a word that is a token as this token, without merging. GGUF has no key
    /// for this setting.
    pub(super) fn ignores_merges(self) -> bool {
        self.0.ignores_merges
    }

    /// True if upstream adds BOS even if the file says that it does not.
    pub(super) fn always_adds_bos(self) -> bool {
        self.0.symbols == Symbols::Marks { lines: true }
    }

    /// True if upstream adds BOS if the file does not have a setting for it.
    pub(super) fn adds_bos(self) -> bool {
        self.0.adds_bos
    }
}

impl std::fmt::Debug for PreTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PreTokenizer({})", self.name())
    }
}

impl PartialEq for PreTokenizer {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for PreTokenizer {}
