//! Added tokens: texts that become one token each wherever they stand, before anything else happens to a text.
//!
//! Two ways of finding them. `tokenizers` (and slow tokenizers of `transformers`) take the leftmost and of those the
//! longest, and may eat white space beside it. llama.cpp goes through the tokens from the longest to the shortest and
//! takes every place that is still free. Both run on an Aho-Corasick automaton: time grows with the text and not with
//! the number of tokens.
//!
//! Invariant: a control token is found only inside text that may hold some; text of a user next to text of a template
//! never makes one.

use super::TokenizerError;
use super::classes::{Classes, SPACE, WORD};
use aho_corasick::{AhoCorasick, Input, MatchKind};
use std::ops::Range;

/// A text that becomes one token.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub id: u32,
    /// What is looked for.
    pub text: String,
    /// Steers the model: not found in text that a user wrote.
    pub control: bool,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
}

impl Added {
    pub fn plain(id: u32, text: String, control: bool) -> Self {
        Self { id, text, control, single_word: false, lstrip: false, rstrip: false }
    }
}

/// Many such texts.
pub(super) struct AddedTokens {
    automaton: Option<AhoCorasick>,
    tokens: Vec<Added>,
    longest_first: bool,
}

/// Places of a text where control tokens may stand, in order, none touching another.
pub(super) type Open = [Range<usize>];

/// A token and the bytes of the text that it takes.
pub(super) type Found = (Range<usize>, u32);

impl AddedTokens {
    /// The way of `tokenizers`; of one text twice the first is looked for.
    pub fn leftmost(tokens: Vec<Added>) -> Result<Self, TokenizerError> {
        Self::new(tokens, MatchKind::LeftmostLongest)
    }

    /// The way of llama.cpp.
    pub fn longest(mut tokens: Vec<Added>) -> Result<Self, TokenizerError> {
        // Longest first, so that a token that contains another is not torn apart.
        tokens.sort_by_key(|t| std::cmp::Reverse(t.text.len()));
        Self::new(tokens, MatchKind::Standard)
    }

    fn new(tokens: Vec<Added>, kind: MatchKind) -> Result<Self, TokenizerError> {
        let tokens: Vec<Added> = tokens.into_iter().filter(|t| !t.text.is_empty()).collect();
        let automaton = match tokens.is_empty() {
            true => None,
            false => {
                let built = AhoCorasick::builder().match_kind(kind).build(tokens.iter().map(|t| &t.text));
                Some(built.map_err(|e| TokenizerError::Library(format!("added tokens: {e}")))?)
            }
        };
        Ok(Self { automaton, tokens, longest_first: kind == MatchKind::Standard })
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens in `text`, in order. Control tokens are taken only inside `open`.
    pub fn find(&self, text: &str, open: &Open) -> Result<Vec<Found>, TokenizerError> {
        match &self.automaton {
            None => Ok(Vec::new()),
            Some(automaton) if self.longest_first => self.find_longest(automaton, text, open),
            Some(automaton) => Ok(self.find_leftmost(automaton, text, open)),
        }
    }

    fn find_leftmost(&self, automaton: &AhoCorasick, text: &str, open: &Open) -> Vec<Found> {
        let classes = Classes::get();
        let word = |c: char| classes.of(c) & WORD != 0;
        let mut found: Vec<Found> = Vec::new();
        let (mut from, mut taken) = (0, 0);
        while let Some(place) = automaton.find(Input::new(text).range(from..)) {
            let token = &self.tokens[place.pattern().as_usize()];
            let (mut start, mut end) = (place.start(), place.end());
            if token.control && !allows(open, start..end) {
                // What begins where another writer's text begins may still be one.
                from = end.min(boundary(open, start)).max(start + 1);
                while !text.is_char_boundary(from) {
                    from += 1;
                }
                continue;
            }
            from = end;
            if token.single_word {
                let before = text[..start].chars().next_back().is_some_and(word);
                let after = text[end..].chars().next().is_some_and(word);
                if before || after {
                    continue;
                }
            }
            let space = |c: char| classes.of(c) & SPACE != 0;
            if token.lstrip {
                start = text[..start].trim_end_matches(space).len().max(taken);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start_matches(space).len();
            }
            // A token that follows stripped space may stand inside what was taken; the library lets it.
            found.push((start.min(end)..end, token.id));
            taken = end;
            from = from.max(taken.min(place.end()));
        }
        found
    }

    fn find_longest(
        &self,
        automaton: &AhoCorasick,
        text: &str,
        open: &Open,
    ) -> Result<Vec<Found>, TokenizerError> {
        let longest = self.tokens.first().map_or(0, |t| t.text.len());
        let mut found = Vec::new();
        let mut pending: Vec<Place> = Vec::new();
        let mut limit = SETTLED;
        for place in automaton.find_overlapping_iter(text) {
            let (range, index) = (place.range(), place.pattern().as_usize());
            if self.tokens[index].control && !allows(open, range.clone()) {
                continue;
            }
            // Places come by their end: one that comes later begins no further back than the longest token reaches.
            let bound = range.end.saturating_sub(longest);
            pending.push((range, index));
            if pending.len() >= limit {
                settle(&mut pending, bound, &mut found);
                limit = SETTLED.max(2 * pending.len());
                if pending.len() > MOST_OVERLAPS {
                    return Err(TokenizerError::Library(format!(
                        "special tokens overlap in more than {MOST_OVERLAPS} places of the text"
                    )));
                }
            }
        }
        settle(&mut pending, usize::MAX, &mut found);
        Ok(found.into_iter().map(|(range, index)| (range, self.tokens[index].id)).collect())
    }
}

/// Bytes of a text and the token that could stand there.
type Place = (Range<usize>, usize);

/// Places that are looked at together, at least.
const SETTLED: usize = 1 << 12;
/// Places that may hang together by overlaps.
const MOST_OVERLAPS: usize = 1 << 24;

/// Decides among places that overlap; those that may still meet others behind `bound` stay pending.
fn settle(pending: &mut Vec<Place>, bound: usize, found: &mut Vec<Place>) {
    pending.sort_unstable_by_key(|(range, _)| range.start);
    let (mut first, mut reach) = (0, 0);
    for at in 0..pending.len() {
        let (start, end) = (pending[at].0.start, pending[at].0.end);
        if at > first && start >= reach {
            if reach > bound {
                break;
            }
            decide(&mut pending[first..at], found);
            first = at;
        }
        reach = reach.max(end);
    }
    if reach <= bound {
        decide(&mut pending[first..], found);
        first = pending.len();
    }
    pending.drain(..first);
}

/// Takes of overlapping places those of the longest tokens, from the left, that are free.
fn decide(cluster: &mut [Place], found: &mut Vec<Place>) {
    let Some(first) = cluster.iter().map(|(range, _)| range.start).min() else { return };
    let end = cluster.iter().map(|(range, _)| range.end).max().unwrap_or(first);
    // Tokens are numbered from the longest on.
    cluster.sort_unstable_by_key(|(range, index)| (*index, range.start));
    let mut taken = vec![false; end - first];
    let before = found.len();
    for (range, index) in cluster {
        let bytes = range.start - first..range.end - first;
        // Longer tokens were placed before: a token that is free at both ends is free between them.
        if !taken[bytes.start] && !taken[bytes.end - 1] {
            taken[bytes].fill(true);
            found.push((range.clone(), *index));
        }
    }
    found[before..].sort_unstable_by_key(|(range, _)| range.start);
}

/// Whether all of a range lies in one open place.
fn allows(open: &Open, range: Range<usize>) -> bool {
    let at = open.partition_point(|place| place.end < range.end);
    open.get(at).is_some_and(|place| place.start <= range.start && range.end <= place.end)
}

/// Where the next place begins or ends, seen from `at`.
fn boundary(open: &Open, at: usize) -> usize {
    let index = open.partition_point(|place| place.end <= at);
    open.get(index).map_or(usize::MAX, |place| if place.start > at { place.start } else { place.end })
}
