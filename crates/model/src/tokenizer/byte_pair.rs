//! Byte-pair encoding (BPE): neighbouring symbols of a word are merged in order of rank. On a tie, the leftmost pair is
//! merged first.
//!
//! There are two kinds of words. In words of bytes, one printable character spells each byte (GPT-2). In words of
//! characters, byte tokens spell the characters that the vocabulary lacks (Llama 2). Source: the `tokenizers` crate's
//! `models/bpe`; the ids here are the same for every word. That crate does not encode words here, because it allocates
//! a string for every token. Not covered here: dropout.
//!
//! ```text
//! symbols ← characters;  queue ← every neighbouring pair that has a rank
//! while queue: take the pair of lowest rank, leftmost on a tie; skip it if one half was merged already,
//!              else merge it and queue the new pairs
//! ```

use super::{Map, TokenizerError, sentencepiece};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::OnceLock;

/// Settings that determine the ids of a word.
pub(super) struct Settings {
    /// Text and id of every token.
    pub vocabulary: Vec<(String, u32)>,
    /// Merges in order of rank; the first merge is done first.
    pub merges: Vec<(String, String)>,
    /// If a pair occurs twice in `merges`: true uses the first merge (as in llama.cpp), false uses the last merge (as
    /// in `tokenizers`).
    pub first_counts: bool,
    /// True if the symbols of a word are bytes and not characters.
    pub of_bytes: bool,
    /// True if a word that is itself a token becomes this token, without merging.
    pub ignore_merges: bool,
    /// True if a character that the vocabulary lacks becomes byte tokens.
    pub byte_fallback: bool,
    /// Text of the unknown token, which replaces symbols that the vocabulary lacks.
    pub unknown: Option<String>,
    /// True if neighbouring unknown symbols become one unknown token.
    pub fuse_unknown: bool,
    /// Text before every symbol of a word except the first symbol.
    pub prefix: String,
    /// Text after the last symbol of a word.
    pub suffix: String,
}

/// Largest number of words in the cache of encoded words.
const REMEMBERED: usize = 1 << 16;
/// Largest length in bytes of a word in the cache.
const LONGEST_REMEMBERED: usize = 64;
/// Largest number of symbols of a word for which every merge compares all pairs. Longer words use a queue.
const SHORT: usize = 24;

/// Encodes words by merging in order of rank.
pub(super) struct BytePair {
    ids: Map<String, u32>,
    /// Ids of the symbols of single bytes, indexed by the byte; `None` for a byte that the vocabulary lacks.
    bytes: Vec<Option<u32>>,
    /// Ids of the byte tokens `<0x00>` to `<0xFF>`, if unknown characters become byte tokens.
    fallback: Option<Vec<Option<u32>>>,
    /// The ids of a pair → the rank of the merge and the id of its result.
    merges: Map<(u32, u32), (u32, u32)>,
    of_bytes: bool,
    ignore_merges: bool,
    unknown: Option<u32>,
    fuse_unknown: bool,
    prefix: String,
    suffix: String,
    /// Where a word can be cut without a change of the ids; `None` if it cannot.
    borders: Option<Borders>,
}

/// Cache of encoded words: the text of a word and its ids.
pub(super) type Remembered = Map<Box<str>, Box<[u32]>>;

/// Keeps the ids of a word, if the word is short.
pub(super) fn remember(remembered: &mut Remembered, word: &str, ids: &[u32]) {
    if word.len() <= LONGEST_REMEMBERED {
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(word.into(), ids.into());
    }
}

/// A symbol of a word in a doubly linked list. `previous` and `next` are indices into the list, or [`NONE`].
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    previous: u32,
    next: u32,
}

/// Marks a missing neighbour. It is also the id of a symbol that was merged into its left neighbour.
const NONE: u32 = u32::MAX;

impl BytePair {
    pub fn new(settings: Settings) -> Result<Self, TokenizerError> {
        let ids: Map<String, u32> = settings.vocabulary.into_iter().collect();
        let find = |token: &str, merge: &(String, String)| {
            ids.get(token).copied().ok_or_else(|| {
                let found = format!("{token:?} (for {:?} and {:?})", merge.0, merge.1);
                TokenizerError::key("merges", "merges of tokens that the vocabulary has", found)
            })
        };
        let mut merges = Map::with_capacity_and_hasher(settings.merges.len(), ahash::RandomState::default());
        let plain = settings.prefix.is_empty() && settings.suffix.is_empty();
        let marks =
            !settings.of_bytes && !settings.ignore_merges && plain && ids.contains_key(sentencepiece::SPACE);
        let mut borders = marks.then(Borders::default);
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
            if let Some(borders) = &mut borders {
                borders.add(&joined);
            }
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
            borders,
        })
    }

    /// The id of the token that is spelled `token`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Appends the ids of one word of the pre-tokenizer to `ids`. A word of bytes is given as plain text, not in its
    /// printable spelling.
    pub fn encode(&self, word: &str, remembered: &mut Remembered, ids: &mut Vec<u32>) {
        let Some(borders) = &self.borders else { return self.encode_whole(word, remembered, ids) };
        let mut rest = word;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(borders.first(rest));
            self.encode_whole(part, remembered, ids);
            rest = after;
        }
    }

    /// Encodes a word, or takes its ids from the cache.
    fn encode_whole(&self, word: &str, remembered: &mut Remembered, ids: &mut Vec<u32>) {
        if let Some(known) = remembered.get(word) {
            return ids.extend_from_slice(known);
        }
        let start = ids.len();
        self.merge(word, ids);
        remember(remembered, word, &ids[start..]);
    }

    /// Encodes a word without the cache.
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
        // As in the library, an unknown symbol waits for the next known symbol, the next unknown symbol or the end of
        // the word. So byte tokens of later characters may come before it.
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

    /// Merges the symbols of a short word in place.
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

    /// Merges the symbols of a long word with a queue of pairs and appends the ids.
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
            // One half may have been merged with another symbol after the pair was queued.
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

/// The character that spells a space in words of characters.
const MARK: char = '\u{2581}';

/// The places where a text can be cut before merging, and the merged parts are the same: before every `▁` that follows
/// another character, unless a merge gives a token with this character before a `▁`.
#[derive(Default)]
pub(super) struct Borders {
    /// The characters before a `▁` inside of tokens.
    inside: HashSet<char>,
}

impl Borders {
    /// Takes account of a token that a merge gives.
    pub fn add(&mut self, token: &str) {
        let next = token.chars().skip(1);
        self.inside
            .extend(token.chars().zip(next).filter(|(c, next)| *c != MARK && *next == MARK).map(|(c, _)| c));
    }

    /// Number of bytes before the first border of `text`; the length of `text` if there is no border.
    pub fn first(&self, text: &str) -> usize {
        let mut from = text.len() - text.trim_start_matches(MARK).len();
        while let Some(at) = text[from..].find(MARK) {
            let border = from + at;
            let before = text[..border].chars().next_back();
            if before.is_some_and(|c| c != MARK && !self.inside.contains(&c)) {
                return border;
            }
            from = border + MARK.len_utf8();
        }
        text.len()
    }
}

/// GPT-2's printable characters, each with the byte that it spells.
fn spelling() -> &'static HashMap<char, u8> {
    static BYTES: OnceLock<HashMap<char, u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        // A printable Latin-1 character spells its own byte. The characters from U+0100 on spell the other bytes, in
        // order.
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

/// Spells every byte of a text as a printable character.
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

/// The bytes that the printable characters of a token spell. A character outside of the table gives its own UTF-8
/// bytes.
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
