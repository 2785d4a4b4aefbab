//! Added tokens: each of them has a text that becomes one token wherever it occurs. The search for added tokens is the
//! first step of encoding.
//!
//! There are two algorithms. `tokenizers` (and the slow tokenizers of `transformers`) take the leftmost match, and the
//! longest match of those that begin at the same place. A token may also take the white space around it. llama.cpp
//! takes the tokens from the longest to the shortest. Each token gets all its matches that do not overlap the match of
//! an earlier token. Both algorithms use an Aho-Corasick automaton, so the time depends on the length of the text and
//! not on the number of tokens.
//!
//! Invariant: a control token is found only inside the ranges of a text where control tokens are allowed. Text of a
//! user never becomes a control token, not even together with neighbouring text of a template.

use super::TokenizerError;
use super::classes::{Classes, SPACE, WORD};
use aho_corasick::{AhoCorasick, Input, MatchKind};
use std::ops::Range;

/// A text that becomes one token.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub id: u32,
    /// The text for the search.
    pub text: String,
    /// True if this is a control token. A control token is not found in text of a user.
    pub control: bool,
    /// True if the token is found only as a whole word.
    pub single_word: bool,
    /// True if the token takes the white space before it.
    pub lstrip: bool,
    /// True if the token takes the white space after it.
    pub rstrip: bool,
}

impl Added {
    /// A token without `single_word`, `lstrip` and `rstrip`.
    pub fn plain(id: u32, text: String, control: bool) -> Self {
        Self { id, text, control, single_word: false, lstrip: false, rstrip: false }
    }
}

/// A set of added tokens, for a search in texts.
pub(super) struct AddedTokens {
    automaton: Option<AhoCorasick>,
    tokens: Vec<Added>,
    /// True if the algorithm is that of llama.cpp.
    longest_first: bool,
}

/// Byte ranges of a text where control tokens are allowed, in ascending order. No two ranges touch each other.
pub(super) type Open = [Range<usize>];

/// The byte range of a found token and its id.
pub(super) type Found = (Range<usize>, u32);

impl AddedTokens {
    /// Uses the algorithm of `tokenizers`. If two tokens have the same text, the first token is found.
    pub fn leftmost(tokens: Vec<Added>) -> Result<Self, TokenizerError> {
        Self::new(tokens, MatchKind::LeftmostLongest)
    }

    /// Uses the algorithm of llama.cpp.
    pub fn longest(mut tokens: Vec<Added>) -> Result<Self, TokenizerError> {
        // Longer tokens come first, so a short token cannot split a longer token that contains it.
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

    /// Finds the tokens in `text`, in order. Control tokens are found only inside the ranges of `open`.
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
                // Another match may begin at the next border of a range, so the search continues there.
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
            // A match may begin inside the white space that `rstrip` gave to the token before it. The library allows
            // this.
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
            // The automaton returns matches in order of their ends. So no later match begins before `bound`.
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
        // White space is that of C's `isspace`.
        let space = |c: char| c.is_ascii_whitespace() || c == '\u{b}';
        let mut taken = 0;
        let widened = found.into_iter().map(|(Range { mut start, mut end }, index)| {
            let token = &self.tokens[index];
            if token.lstrip {
                start = text[..start].trim_end_matches(space).len().max(taken).min(start);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start_matches(space).len();
            }
            let start = start.max(taken);
            taken = end.max(taken);
            (start..end.max(start), token.id)
        });
        Ok(widened.collect())
    }
}

/// A match: its byte range and the index of its token.
type Place = (Range<usize>, usize);

/// Number of pending matches at which [`settle`] is first called.
const SETTLED: usize = 1 << 12;
/// Largest number of pending matches that overlap. A larger number is an error.
const MOST_OVERLAPS: usize = 1 << 24;

/// Chooses between overlapping matches and adds the chosen matches to `found`. Matches that may overlap a later match,
/// which begins at `bound` or after it, stay pending.
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

/// Chooses from a group of overlapping matches: longer tokens first, and the same token from left to right. A match is
/// chosen only if it overlaps no match that was chosen before.
fn decide(cluster: &mut [Place], found: &mut Vec<Place>) {
    let Some(first) = cluster.iter().map(|(range, _)| range.start).min() else { return };
    let end = cluster.iter().map(|(range, _)| range.end).max().unwrap_or(first);
    // The token with index 0 is the longest.
    cluster.sort_unstable_by_key(|(range, index)| (*index, range.start));
    let mut taken = vec![false; end - first];
    let before = found.len();
    for (range, index) in cluster {
        let bytes = range.start - first..range.end - first;
        // The matches that were chosen before are at least as long as this match. So if both ends of this match are
        // free, all its bytes are free.
        if !taken[bytes.start] && !taken[bytes.end - 1] {
            taken[bytes].fill(true);
            found.push((range.clone(), *index));
        }
    }
    found[before..].sort_unstable_by_key(|(range, _)| range.start);
}

/// True if the whole `range` is inside one range of `open`.
fn allows(open: &Open, range: Range<usize>) -> bool {
    let at = open.partition_point(|place| place.end < range.end);
    open.get(at).is_some_and(|place| place.start <= range.start && range.end <= place.end)
}

/// The next offset after `at` where a range of `open` begins or ends; `usize::MAX` if there is no such offset.
fn boundary(open: &Open, at: usize) -> usize {
    let index = open.partition_point(|place| place.end <= at);
    open.get(index).map_or(usize::MAX, |place| if place.start > at { place.start } else { place.end })
}
