//! Byte-pair encoding: a word's symbols are merged in order of rank, the leftmost pair first on a tie.
//!
//! Two spellings: words of bytes, each a printable character (GPT-2), or words of characters, with bytes for what the
//! vocabulary lacks (Llama 2). Source: the `tokenizers` crate's `models/bpe`, whose ids these are for every word; it is
//! not used here because it makes a string of every token. Left out: dropout.
//!
//! ```text
//! symbols ← characters;  queue ← every neighbouring pair that has a rank
//! while queue: take the pair of lowest rank, leftmost on a tie; merge it if both halves still stand
//! ```

use super::{TokenizerError, sentencepiece};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::OnceLock;

/// What decides the ids of a word.
pub(super) struct Settings {
    /// Text and id of every token.
    pub vocabulary: Vec<(String, u32)>,
    /// Merges, first is best.
    pub merges: Vec<(String, String)>,
    /// Of one pair twice, whether the first counts (as llama.cpp has it) or the last (as `tokenizers` has it).
    pub first_counts: bool,
    /// Words are bytes.
    pub of_bytes: bool,
    /// A word that is a token is taken whole.
    pub ignore_merges: bool,
    /// What the vocabulary lacks becomes byte tokens.
    pub byte_fallback: bool,
    /// What stands for the unknown.
    pub unknown: Option<String>,
    /// Neighbours that are unknown become one.
    pub fuse_unknown: bool,
    /// Written before every symbol of a word but the first.
    pub prefix: String,
    /// Written after the last symbol of a word.
    pub suffix: String,
}

/// Words that are remembered at most, and bytes of the longest one.
const REMEMBERED: usize = 1 << 16;
const LONGEST_REMEMBERED: usize = 64;
/// Symbols of a word up to which the best pair is looked for by going through all.
const SHORT: usize = 24;

/// Merges by rank.
pub(super) struct BytePair {
    ids: HashMap<String, u32>,
    /// Symbols of words of bytes.
    bytes: Vec<Option<u32>>,
    /// Byte tokens, where what is unknown becomes some.
    fallback: Option<Vec<Option<u32>>>,
    merges: HashMap<(u32, u32), (u32, u32)>,
    of_bytes: bool,
    ignore_merges: bool,
    unknown: Option<u32>,
    fuse_unknown: bool,
    prefix: String,
    suffix: String,
    /// No merge crosses the beginning of a word that `▁` marks.
    cuts: bool,
}

/// Words that were met already, by their text.
pub(super) type Remembered = HashMap<Box<str>, Box<[u32]>>;

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    previous: u32,
    next: u32,
}

/// No symbol.
const NONE: u32 = u32::MAX;

impl BytePair {
    pub fn new(settings: Settings) -> Result<Self, TokenizerError> {
        let mut ids = HashMap::with_capacity(settings.vocabulary.len());
        ids.extend(settings.vocabulary);
        let find = |token: &str, merge: &(String, String)| {
            ids.get(token).copied().ok_or_else(|| {
                let found = format!("{token:?} (for {:?} and {:?})", merge.0, merge.1);
                TokenizerError::key("merges", "merges of tokens that the vocabulary has", found)
            })
        };
        let mut merges = HashMap::with_capacity(settings.merges.len());
        let mut cuts =
            !settings.of_bytes && !settings.ignore_merges && ids.contains_key(sentencepiece::SPACE);
        for (rank, merge) in settings.merges.iter().enumerate() {
            let tail = merge.1.strip_prefix(settings.prefix.as_str()).ok_or_else(|| {
                TokenizerError::key(
                    "merges",
                    format!("{:?} before the second half", settings.prefix),
                    &*merge.1,
                )
            })?;
            let joined = format!("{}{tail}", merge.0);
            let pair = (find(&merge.0, merge)?, find(&merge.1, merge)?);
            let new = (rank as u32, find(&joined, merge)?);
            if settings.first_counts {
                merges.entry(pair).or_insert(new);
            } else {
                merges.insert(pair, new);
            }
            cuts &= !marks_inside(&joined);
        }
        let mut bytes = vec![None; 256];
        for (c, byte) in spelling() {
            bytes[usize::from(*byte)] = ids.get(c.encode_utf8(&mut [0; 4]) as &str).copied();
        }
        let fallback = settings
            .byte_fallback
            .then(|| (0..256).map(|b| ids.get(&format!("<0x{b:02X}>")).copied()).collect());
        let unknown = match settings.unknown {
            None => None,
            Some(text) => Some(ids.get(&text).copied().ok_or_else(|| {
                TokenizerError::key("unk_token", "a token of the vocabulary", format!("{text:?}"))
            })?),
        };
        cuts &= settings.prefix.is_empty() && settings.suffix.is_empty();
        Ok(Self {
            ids,
            bytes,
            fallback,
            merges,
            of_bytes: settings.of_bytes,
            ignore_merges: settings.ignore_merges,
            unknown,
            fuse_unknown: settings.fuse_unknown,
            prefix: settings.prefix,
            suffix: settings.suffix,
            cuts,
        })
    }

    /// Ids of one word as the pre-tokenizer leaves it; words of bytes are given as text, not in printable spelling.
    pub fn encode(&self, word: &str, remembered: &mut Remembered, ids: &mut Vec<u32>) {
        if !self.cuts {
            return self.encode_whole(word, remembered, ids);
        }
        let mut rest = word;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(next_mark(rest));
            self.encode_whole(part, remembered, ids);
            rest = after;
        }
    }

    fn encode_whole(&self, word: &str, remembered: &mut Remembered, ids: &mut Vec<u32>) {
        if let Some(known) = remembered.get(word) {
            return ids.extend_from_slice(known);
        }
        let start = ids.len();
        self.merge(word, ids);
        if word.len() <= LONGEST_REMEMBERED {
            if remembered.len() >= REMEMBERED {
                remembered.clear();
            }
            remembered.insert(word.into(), ids[start..].into());
        }
    }

    fn merge(&self, word: &str, ids: &mut Vec<u32>) {
        if self.ignore_merges {
            let whole = if self.of_bytes { self.ids.get(&printable(word)) } else { self.ids.get(word) };
            if let Some(id) = whole {
                return ids.push(*id);
            }
        }
        let mut symbols = Vec::with_capacity(word.len());
        match self.of_bytes {
            true => self.byte_symbols(word, &mut symbols),
            false => self.character_symbols(word, &mut symbols),
        }
        if symbols.len() <= SHORT {
            self.merge_short(&mut symbols);
            ids.extend_from_slice(&symbols);
        } else {
            self.merge_long(&symbols, ids);
        }
    }

    fn byte_symbols(&self, word: &str, symbols: &mut Vec<u32>) {
        let mut unknown = false;
        for byte in word.bytes() {
            match self.bytes[usize::from(byte)] {
                Some(id) => symbols.push(id),
                None if unknown && self.fuse_unknown => continue,
                None => symbols.extend(self.unknown),
            }
            unknown = self.bytes[usize::from(byte)].is_none();
        }
    }

    fn character_symbols(&self, word: &str, symbols: &mut Vec<u32>) {
        // As the library: an unknown symbol waits until a known one or another unknown one comes, so that byte tokens
        // may go before it.
        let mut waiting = None;
        let mut spelled = String::new();
        let mut characters = word.char_indices().peekable();
        while let Some((at, c)) = characters.next() {
            spelled.clear();
            if at > 0 {
                spelled.push_str(&self.prefix);
            }
            spelled.push(c);
            if characters.peek().is_none() {
                spelled.push_str(&self.suffix);
            }
            if let Some(id) = self.ids.get(&spelled) {
                symbols.extend(waiting.take());
                symbols.push(*id);
                continue;
            }
            if let Some(fallback) = &self.fallback {
                let bytes: Option<Vec<u32>> = spelled.bytes().map(|b| fallback[usize::from(b)]).collect();
                if let Some(bytes) = bytes {
                    symbols.extend(bytes);
                    continue;
                }
            }
            if waiting.is_some() && !self.fuse_unknown {
                symbols.extend(waiting.take());
            }
            waiting = self.unknown;
        }
        symbols.extend(waiting);
    }

    fn merge_short(&self, symbols: &mut Vec<u32>) {
        loop {
            let pairs = symbols.windows(2).enumerate();
            let ranked = pairs.filter_map(|(at, two)| {
                self.merges.get(&(two[0], two[1])).map(|(rank, id)| (*rank, at, *id))
            });
            let Some((_, at, id)) = ranked.min() else { return };
            symbols[at] = id;
            symbols.remove(at + 1);
        }
    }

    fn merge_long(&self, symbols: &[u32], ids: &mut Vec<u32>) {
        let count = symbols.len() as u32;
        let mut chain: Vec<Symbol> = (0..count)
            .map(|i| Symbol {
                id: symbols[i as usize],
                previous: i.wrapping_sub(1),
                next: if i + 1 < count { i + 1 } else { NONE },
            })
            .collect();
        let ranked = |left: u32, at: u32, right: u32| {
            self.merges.get(&(left, right)).map(|(rank, id)| Reverse((*rank, at, *id)))
        };
        let mut queue: BinaryHeap<_> =
            (1..count).filter_map(|i| ranked(symbols[i as usize - 1], i - 1, symbols[i as usize])).collect();
        while let Some(Reverse((_, at, new))) = queue.pop() {
            let left = chain[at as usize];
            if left.id == NONE || left.next == NONE {
                continue;
            }
            let right = chain[left.next as usize];
            // One half may have been merged into something else since the pair was queued.
            if self.merges.get(&(left.id, right.id)).is_none_or(|(_, id)| *id != new) {
                continue;
            }
            chain[left.next as usize].id = NONE;
            chain[at as usize].id = new;
            chain[at as usize].next = right.next;
            if right.next != NONE {
                chain[right.next as usize].previous = at;
                queue.extend(ranked(new, at, chain[right.next as usize].id));
            }
            if left.previous != NONE {
                queue.extend(ranked(chain[left.previous as usize].id, left.previous, new));
            }
        }
        ids.extend(chain.iter().map(|s| s.id).filter(|id| *id != NONE));
    }
}

/// How a space is spelled in words of characters.
const MARK: char = '\u{2581}';

/// Whether `▁` stands behind another character.
pub(super) fn marks_inside(token: &str) -> bool {
    token.trim_start_matches(MARK).contains(MARK)
}

/// Bytes up to the next `▁` that stands behind another character.
pub(super) fn next_mark(text: &str) -> usize {
    let marks = text.len() - text.trim_start_matches(MARK).len();
    text[marks..].find(MARK).map_or(text.len(), |at| marks + at)
}

/// GPT-2's printable characters and the bytes that they stand for.
fn spelling() -> &'static HashMap<char, u8> {
    static BYTES: OnceLock<HashMap<char, u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        // Printable Latin-1 stands for itself, the others follow from U+0100.
        let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let mut next = 0x100;
        let spelling = |b: u8| {
            if printable(b) {
                char::from(b)
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap_or('\u{fffd}')
            }
        };
        (0..=255).map(spelling).zip(0..=255).collect()
    })
}

/// The printable spelling of a text's bytes.
pub(super) fn printable(text: &str) -> String {
    static CHARACTERS: OnceLock<Vec<char>> = OnceLock::new();
    let characters = CHARACTERS.get_or_init(|| {
        let mut characters = vec!['\u{fffd}'; 256];
        for (c, byte) in spelling() {
            characters[usize::from(*byte)] = *c;
        }
        characters
    });
    text.bytes().map(|b| characters[usize::from(b)]).collect()
}

/// The bytes of a token's printable spelling; characters outside it stand for themselves.
pub(super) fn bytes(token: &str) -> Vec<u8> {
    let map = spelling();
    let mut bytes = Vec::with_capacity(token.len());
    for c in token.chars() {
        match map.get(&c) {
            Some(b) => bytes.push(*b),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}
