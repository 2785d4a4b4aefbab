//! Creates a SentencePiece vocabulary: special tokens, every byte, ASCII, a few English pieces, and fillers.
//!
//! Characters that are not printable ASCII become byte tokens, so every text can be tokenized.

use kvant::model::{Kind, TokenKind, Vocabulary};

/// The character that SentencePiece writes for a space.
const SPACE: char = '\u{2581}';

/// Pieces of English words, the best merge first. Each piece is the join of two parts. A part is an earlier piece or a
/// single character.
const PIECES: &[&str] = &[
    "▁t", "he", "in", "▁a", "re", "on", "▁the", "er", "at", "▁s", "nd", "▁w", "en", "▁o", "or", "ou", "es",
    "is", "it", "an", "ing", "▁and", "ed", "▁b", "▁c", "▁of", "▁in", "▁to", "ar", "ll", "al", "▁h", "▁m",
    "ion",
];

/// The score of a filler. It is lower than the score of every merge.
const FILLER_SCORE: f32 = -1e6;

/// Creates a vocabulary of `size` tokens.
pub fn vocabulary(size: usize) -> Vocabulary {
    let special = [("<unk>", TokenKind::Unknown), ("<s>", TokenKind::Control), ("</s>", TokenKind::Control)];
    let special = special.map(|(text, kind)| (text.to_owned(), kind));
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), TokenKind::Byte));
    let (mut tokens, mut kinds): (Vec<_>, Vec<_>) = special.into_iter().chain(bytes).unzip();
    let mut scores = vec![0.0; tokens.len()];

    let characters = std::iter::once(SPACE).chain('!'..='~').map(|c| c.to_string());
    let pieces = PIECES.iter().map(|piece| (*piece).to_owned()).chain(characters);
    for (rank, piece) in pieces.enumerate() {
        tokens.push(piece);
        scores.push(-1.0 - rank as f32);
    }
    // No text becomes a filler, because no merge creates one, and because its space is not the space of SentencePiece.
    // Fillers are of the normal kind, so that an answer has visible text.
    tokens.extend((tokens.len()..size).map(|id| format!("[filler {id}]")));
    scores.resize(tokens.len(), FILLER_SCORE);
    kinds.resize(tokens.len(), TokenKind::Normal);
    Vocabulary {
        tokens,
        kinds,
        kind: Kind::SentencePiece { scores, add_space_prefix: true },
        bos: Some(1),
        eos: Some(2),
        eot: None,
        unknown: Some(0),
        padding: None,
        mask: None,
        add_bos: true,
        add_eos: false,
        takes_before: Vec::new(),
        takes_after: Vec::new(),
        more_ends: Vec::new(),
        chat_template: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvant::model::{Special, Tokenizer};

    #[test]
    fn every_text_tokenizes_and_comes_back() {
        let tokenizer = Tokenizer::new(vocabulary(1000)).expect("a tokenizer");
        assert_eq!(tokenizer.len(), 1000);
        let every_character: String = ('\u{1}'..='\u{2fff}').filter(|c| *c != SPACE).collect();
        for text in ["Hello, 안녕", "a\tb\r\nc  d\u{0}", "[filler 999]", "🦀 ½", &every_character] {
            let ids = tokenizer.encode(text, Special { add: false, parse: false }).expect("ids");
            assert_eq!(tokenizer.decode(&ids), text);
            assert!(ids.iter().all(|&id| id != 0 && id < 500), "unknown token or filler in {text:?}");
        }
    }

    #[test]
    fn pieces_merge() {
        let tokenizer = Tokenizer::new(vocabulary(1000)).expect("a tokenizer");
        let ids = tokenizer.encode("and the in", Special { add: false, parse: false }).expect("ids");
        let pieces: Vec<_> = ids.iter().map(|&id| tokenizer.piece(id)).collect();
        assert_eq!(pieces, [" and", " the", " in"]);
        let known = |text: &str| text.chars().count() == 1 || tokenizer.id(text).is_some();
        for piece in PIECES {
            let mut cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
            assert!(cuts.any(|(left, right)| known(left) && known(right)), "no merge leads to {piece}");
        }
    }
}
