//! Regular expressions of pre-tokenizers, without the look-around at their ends (see `cut`).
//!
//! Sources: the `tokenizer.json` of the models (`original`), and llama.cpp's reading of them in `src/llama-vocab.cpp`.
//! llama.cpp has one class for all letters, so it separates upper from lower case only in ASCII.

/// Punctuation of ASCII and of Unicode, every run one part: the step `Punctuation` of a `tokenizer.json` with the
/// behavior `Contiguous`.
pub(super) const PUNCTUATION_RUNS: &str = r"[[:punct:]\p{P}]+";
/// The same with the behavior `Isolated`.
pub(super) const PUNCTUATION: &str = r"[[:punct:]\p{P}]";

/// Contractions of English as llama.cpp reads `(?i:'s|'t|'re|'ve|'m|'ll|'d)`.
macro_rules! contraction {
    () => {
        r"'(?:[sStTmMdD]|[rRvV][eE]|[lL][lL])"
    };
}

/// The alternatives of Llama 3 for other characters and for line breaks; `/` belongs to the line breaks of some models.
macro_rules! others {
    ($breaks:literal) => {
        concat!(r" ?[^\s\p{L}\p{N}]+", $breaks, r"|\s*[\r\n]+")
    };
}

/// Chinese, Japanese and Korean in DeepSeek's first rules. In llama.cpp white space is in none of these classes.
pub(super) const HAN_AND_MORE: &str = r"[[一-龥ࠀ-一가-퟿]--\s]+";
pub(super) const HAN_AND_KANA: &str = r"[一-龥぀-ゟ゠-ヿ]+";
pub(super) const LATIN_AND_MORE: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
pub(super) const PUNCTUATION_AND_MORE: &str = r"\s?[!-/:-~！-／：-～‘-‟、-。]+";
macro_rules! deepseek3 {
    () => {
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"##
    };
}
pub(super) const DEEPSEEK3: &str = deepseek3!();
pub(super) const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]"##;
pub(super) const AFMOE_SCRIPTS: &str = r"[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+";
pub(super) const YOUTU_SCRIPTS: &str = r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+";
pub(super) const YOUTU: &str =
    concat!(r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:", contraction!(), r")?|\p{N}|", others!(r"[\r\n/]*"));
pub(super) const TINY_AYA: &str =
    concat!(r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:", contraction!(), r")?|\p{N}{1,3}|", others!(r"[\r\n/]*"));
pub(super) const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]*[\p{L}--[A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]+[\p{L}--[A-Z]]*|\p{N}|",
    others!(r"[\r\n/]*")
);
pub(super) const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]*[\p{L}--[A-Z]]+(?:",
    contraction!(),
    r")?|[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]+[\p{L}--[A-Z]]*(?:",
    contraction!(),
    r")?|\p{N}{1,3}|",
    others!(r"[\r\n/]*")
);
pub(super) const GRANITE_EMBEDDING: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}--[a-z]]*[\p{L}\p{M}--[A-Z]]+(?:",
    contraction!(),
    r")?|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}--[a-z]]+[\p{L}\p{M}--[A-Z]]*(?:",
    contraction!(),
    r")?|\p{N}{1,3}|",
    others!(r"[\r\n/]*")
);
/// The blocks of Han in llama.cpp's `unicode_cpt_is_han`.
macro_rules! han {
    () => {
        r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2EBEF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}"
    };
}
pub(super) const KIMI: &str = concat!(
    "[",
    han!(),
    r"]+|[^\r\n\p{L}\p{N}]?[\p{L}--[",
    han!(),
    "]]+(?:",
    contraction!(),
    r")?|\p{N}{1,3}|",
    others!(r"[\r\n]*")
);
pub(super) const JAIS2: &str =
    concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|", others!(r"[\r\n]*"));
pub(super) const EXAONE_MOE: &str = concat!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
);
pub(super) const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// Expressions of `tokenizer.json` files where they differ from the ones above. `\r`, `\n` and `\t` are escaped here.
pub(super) mod original {
    pub const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    pub const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    pub const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
    pub const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
    pub const DEEPSEEK3: &str = concat!(deepseek3!(), r"|\s+(?!\S)|\s+");
    pub const HAN_AND_MORE: &str = "[一-龥ࠀ-一가-퟿]+";
    pub const LATIN_AND_MORE: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
    pub const PUNCTUATION_AND_MORE: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
    pub const TINY_AYA_DIGITS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
    pub const SUPERBPE_DIGITS: &str = r"(?=(\d{3})+(?!\d))";
    pub const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
}
