//! Compares two tokenizers: finds the first difference that changes ids.

use super::{Engine, Kind, Special, TokenKind, Tokenizer, TokenizerError, Vocabulary};

/// Sample texts. Tokenizers often give different ids for such texts.
const SAMPLES: &[&str] = &[
    "Hello, world! It's 2026; don't you'LL we'Re I'm ADMIN'S.",
    " leading",
    "trailing ",
    "  two",
    "a   b    c     d",
    "\t\ttabs\tand \t mixed ",
    "\n",
    "\n\n\nx\r\n y \n z",
    " ",
    "   ",
    "1 12 123 1234 12345 3.14159 1,000,000 ½ ² Ⅷ ٣٤٥ 0x1F",
    "fn main() { let x = vec![1, 2]; /* ok */ }\n    if (a->b != c) { return; }\n\tpass",
    "고양이가 나무 위에서 잠을 잡니다. 값은 3,500원입니다! ㅋㅋㅋ",
    "漢字かな交じり文。中文没有空格，「引用」。",
    "Привет, мир! Ça va? Größe naïve Ångström İstanbul ſ",
    "e\u{301}a\u{308} \u{1112}\u{1161}\u{11ab} ﬁ ％ ™ Ⓐ",
    "مرحبا بالعالم हिन्दी ภาษาไทย עברית",
    "🦊👩‍👩‍👧 🇰🇷 ✅✅ 😶‍🌫️",
    "https://example.com/a_b-c?d=e&f=%20 user@host.org #tag @you",
    "''' ``` \"\"\" ... --- === ?!?! (((([[[[{{{{<<<<",
    "\u{a0}nbsp\u{3000}wide\u{200b}zero\u{feff}bom\u{0}nul\u{7f}",
    "ooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooo",
    "unbelievableness antidisestablishmentarianism camelCaseWord SHOUTING_SNAKE",
];

/// Largest number of added tokens for which a sample text is made.
const TRIED: usize = 64;

impl Tokenizer {
    /// Describes the first place where the ids of two tokenizers differ, in the sample texts and in texts with added
    /// tokens; `None` if all ids are equal.
    pub(super) fn sampled_difference(&self, other: &Self) -> Result<Option<String>, TokenizerError> {
        let added = (0..self.len()).filter(|&id| {
            let kind = self.vocabulary().kinds[id];
            kind == TokenKind::UserDefined || kind == TokenKind::Control
        });
        let around = added.take(TRIED).map(|id| {
            let token = &self.vocabulary().tokens[id];
            format!("a{token}b {token} c  {token}{token}\n{token} ")
        });
        for text in SAMPLES.iter().map(|t| (*t).to_owned()).chain(around) {
            if let Some(difference) =
                self.text_difference(other, &text, Special { add: true, parse: true })?
            {
                return Ok(Some(difference));
            }
        }
        Ok(None)
    }

    /// Describes the first place where the ids of a text differ, with both ids; `None` if all ids are equal.
    fn text_difference(
        &self,
        other: &Self,
        text: &str,
        special: Special,
    ) -> Result<Option<String>, TokenizerError> {
        let (ours, theirs) = (self.encode(text, special)?, other.encode(text, special)?);
        if ours == theirs {
            return Ok(None);
        }
        let at = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        let read = self.decode(&ours[..at]);
        let before: String = read.chars().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect();
        let named = |tokenizer: &Self, ids: &[u32]| match ids.get(at) {
            Some(&id) => format!("{id} {:?}", tokenizer.piece(id)),
            None => "nothing".to_owned(),
        };
        let place = match before.is_empty() {
            true => format!("token {at} of {:?}", text.chars().take(20).collect::<String>()),
            false => format!("token {at}, behind {before:?}"),
        };
        Ok(Some(format!("{place}: {} and {}", named(self, &ours), named(other, &theirs))))
    }

    /// Describes the first difference of two tokenizers that changes ids. Compares their tokens and settings, and the
    /// ids that they give for sample texts and for `text`. Returns `None` if all of these are equal.
    ///
    /// # Errors
    /// The errors of [`Tokenizer::encode`].
    pub fn difference(&self, other: &Self, text: &str) -> Result<Option<String>, TokenizerError> {
        let (a, b) = (self.vocabulary(), other.vocabulary());
        // A file may list unused tokens at the end. They only fill the rows of the embedding.
        let used =
            |v: &Vocabulary| v.kinds.iter().rposition(|k| *k != TokenKind::Unused).map_or(0, |last| last + 1);
        let count = used(a);
        if count != used(b) {
            return Ok(Some(format!("one has {count} tokens, the other {}", used(b))));
        }
        if let Some(id) = (0..count).find(|&id| a.tokens[id] != b.tokens[id]) {
            return Ok(Some(format!("token {id} is {:?} and {:?}", a.tokens[id], b.tokens[id])));
        }
        let special = |kind: TokenKind| match kind {
            TokenKind::Control | TokenKind::Unknown => 2,
            TokenKind::UserDefined => 1,
            _ => 0,
        };
        if let Some(id) = (0..count).find(|&id| special(a.kinds[id]) != special(b.kinds[id])) {
            return Ok(Some(format!(
                "token {id} {:?} is {:?} and {:?}",
                a.tokens[id], a.kinds[id], b.kinds[id]
            )));
        }
        if self.around != other.around {
            return Ok(Some(format!("a text stands between {:?} and {:?}", self.around, other.around)));
        }
        // If only one of the tokenizers uses llama.cpp's SentencePiece algorithm, scores and merges are not comparable.
        // Then only the ids are compared.
        let scored = |t: &Self| matches!(t.engine, Engine::Scored(_));
        let comparable = scored(self) == scored(other);
        if let Some(difference) = kind_difference(&a.kind, &b.kind).filter(|_| comparable) {
            return Ok(Some(difference));
        }
        if let Some(difference) = self.sampled_difference(other)? {
            return Ok(Some(difference));
        }
        self.text_difference(other, text, Special { add: true, parse: false })
    }
}

/// Describes the first difference of pre-tokenizers, merges or scores; `None` if there is no difference or if they are
/// not comparable.
fn kind_difference(a: &Kind, b: &Kind) -> Option<String> {
    match (a, b) {
        (
            Kind::BytePair { merges: a, pre_tokenizer: split_a, .. },
            Kind::BytePair { merges: b, pre_tokenizer: split_b, .. },
        ) => {
            if split_a != split_b {
                return Some(format!("text is split as {:?} and as {:?}", split_a.name(), split_b.name()));
            }
            if let Some(rank) = a.iter().zip(b).position(|(a, b)| a != b) {
                return Some(format!("merge {rank} is {:?} and {:?}", a[rank], b[rank]));
            }
            (a.len() != b.len()).then(|| format!("one has {} merges, the other {}", a.len(), b.len()))
        }
        (
            Kind::SentencePiece { scores: a, add_space_prefix: space_a },
            Kind::SentencePiece { scores: b, add_space_prefix: space_b },
        ) => {
            if space_a != space_b {
                return Some(format!("add_space_prefix is {space_a} and {space_b}"));
            }
            // Only the order of the scores determines the ids, not their values.
            let mut order: Vec<usize> = (0..a.len().min(b.len())).collect();
            order.sort_by(|&i, &j| a[j].total_cmp(&a[i]));
            let two = order.windows(2).find(|two| {
                let (i, j) = (two[0], two[1]);
                a[i].total_cmp(&a[j]) != b[i].total_cmp(&b[j])
            })?;
            let (i, j) = (two[0], two[1]);
            Some(format!(
                "tokens {i} and {j} have the scores {} and {}, and {} and {}",
                a[i], a[j], b[i], b[j]
            ))
        }
        (Kind::Folder { .. }, _) | (_, Kind::Folder { .. }) => None,
        // The ids of sample texts are compared.
        (Kind::WordPiece { .. }, Kind::WordPiece { .. }) | (Kind::Unigram { .. }, Kind::Unigram { .. }) => {
            None
        }
        _ => Some("one merges bytes by rank, the other characters by score".into()),
    }
}
