//! Tests of single parts against references: regular expressions for the hand-written rules, the library's steps for
//! the fast variants, and llama.cpp's loop for added tokens.

use super::added::{Added, AddedTokens};
use super::byte_pair::Remembered;
use super::json;
use super::model::Model;
use super::pipeline::{Entry, Pipeline};
use super::{PreTokenizer, TokenizerError};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const SPLITS: [PreTokenizer; 5] = [
    PreTokenizer::Gpt2,
    PreTokenizer::LlamaBpe,
    PreTokenizer::Smollm,
    PreTokenizer::Qwen2,
    PreTokenizer::Qwen35,
];

/// Characters that the rules treat differently.
const CHARACTERS: &[char] = &[
    ' ', ' ', ' ', '\n', '\r', '\t', '\u{a0}', '\u{3000}', '\u{85}', 'a', 's', 'S', 't', 'e', 'r', 'l', 'v',
    'd', 'm', 'ſ', 'É', '한', '字', '1', '2', '½', '٣', '\'', '.', '!', '_', '-', '\u{301}', '\u{308}', '🦊',
    '\u{200d}', '\u{0}', '\u{feff}', 'ǅ', 'ʰ',
];

fn random_text(random: &mut ChaCha8Rng, characters: &[char], longest: u32) -> String {
    let length = random.next_u32() % longest;
    (0..length).map(|_| characters[random.next_u32() as usize % characters.len()]).collect()
}

fn words(split: PreTokenizer, text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    split.words(text, &mut |word| words.push(word));
    words
}

#[test]
fn splits_by_hand_are_the_expressions() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for split in SPLITS {
        let expressions: Vec<fancy_regex::Regex> =
            split.expressions().iter().map(|e| fancy_regex::Regex::new(e).unwrap()).collect();
        for _ in 0..8000 {
            let text = random_text(&mut random, CHARACTERS, 24);
            let mut expected = vec![text.as_str()];
            for expression in &expressions {
                let cut = |text: &str| -> Vec<std::ops::Range<usize>> {
                    let mut end = 0;
                    let mut parts = Vec::new();
                    for found in expression.find_iter(text) {
                        let found = found.unwrap();
                        parts.extend([end..found.start(), found.range()]);
                        end = found.end();
                    }
                    parts.push(end..text.len());
                    parts.retain(|part| !part.is_empty());
                    parts
                };
                expected = expected.iter().flat_map(|t| cut(t).into_iter().map(|part| &t[part])).collect();
            }
            assert_eq!(words(split, &text), expected, "{split:?} {text:?}");
        }
    }
}

#[test]
fn white_space_of_any_length_is_split_as_a_short_one() {
    for space in [" ", "\t", "\u{3000}", "\n", " \n"] {
        for split in SPLITS {
            let lengths = |count: usize| {
                let text = format!("x{}y", space.repeat(count));
                words(split, &text).iter().map(|w| w.len()).collect::<Vec<_>>()
            };
            let (short, long) = (lengths(10), lengths(1_100_000));
            assert_eq!(short.len(), long.len(), "{split:?} {space:?}");
            assert_eq!(short.last(), long.last(), "{split:?} {space:?}");
        }
    }
}

fn demo() -> (json::File, Model) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo/tokenizer.json");
    let file: json::File = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let model = Model::new(&file.model, true).unwrap();
    (file, model)
}

fn ids(pipeline: &Pipeline, text: &str) -> Result<Vec<u32>, TokenizerError> {
    let mut ids = Vec::new();
    pipeline.encode(text, std::slice::from_ref(&(0..text.len())), &mut ids).map(|()| ids)
}

#[test]
fn short_ways_give_the_librarys_ids() {
    let steps = [
        r#"{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}"#,
        r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true}"#,
        r#"{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},
            {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true}]}"#,
        r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"[aeiou]+|\\s"},"behavior":"Isolated",
            "invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}"#,
    ];
    let mut random = ChaCha8Rng::seed_from_u64(11);
    for normalizer in ["null", r#"{"type":"NFC"}"#] {
        let normalizer = serde_json::from_str(normalizer).unwrap();
        for step in steps {
            let step = serde_json::from_str(step).unwrap();
            let make = || {
                let entry = |id, text: &str, normalized| Entry {
                    token: Added { single_word: true, ..Added::plain(id, text.into(), false) },
                    normalized,
                };
                let (_, model) = demo();
                Pipeline::new(
                    &normalizer,
                    &step,
                    true,
                    vec![entry(1, "st", false), entry(2, "é", true)],
                    model,
                )
                .unwrap()
            };
            let (short, long) = (make(), make().without_short_ways());
            for _ in 0..300 {
                let text = random_text(&mut random, CHARACTERS, 40);
                assert_eq!(ids(&short, &text).unwrap(), ids(&long, &text).unwrap(), "{step} {text:?}");
            }
        }
    }
}

#[test]
fn an_expression_that_gives_up_is_an_error() {
    let step = serde_json::json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": r"\s+(?!\S)|\s+|\S+" }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }]});
    for short in [true, false] {
        let mut pipeline =
            Pipeline::new(&serde_json::Value::Null, &step, true, Vec::new(), demo().1).unwrap();
        if !short {
            pipeline = pipeline.without_short_ways();
        }
        let text = format!("{}x", " ".repeat(1_100_000));
        let error = ids(&pipeline, &text).unwrap_err().to_string();
        assert!(error.contains("gives up"), "{error}");
        assert!(!ids(&pipeline, "a  b").unwrap().is_empty());
    }
}

#[test]
fn added_tokens_are_found_as_llama_cpp_finds_them() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..4000 {
        let texts: Vec<String> = (0..1 + random.next_u32() % 6)
            .map(|_| random_text(&mut random, &['a', 'b', 'c'], 5))
            .filter(|t| !t.is_empty())
            .collect();
        let text = random_text(&mut random, &['a', 'b', 'c', ' '], 30);
        let mut tokens: Vec<Added> =
            (0..).zip(&texts).map(|(id, t)| Added::plain(id, t.clone(), false)).collect();
        let found = AddedTokens::longest(tokens.clone()).unwrap().find(&text, &[]).unwrap();
        // llama.cpp's algorithm: search for each token in turn, in every part that is not a token yet.
        tokens.sort_by_key(|t| std::cmp::Reverse(t.text.len()));
        let mut parts: Vec<(std::ops::Range<usize>, Option<u32>)> = vec![(0..text.len(), None)];
        for token in &tokens {
            let mut next = Vec::new();
            for (range, id) in parts {
                if id.is_some() {
                    next.push((range, id));
                    continue;
                }
                let mut start = range.start;
                while let Some(at) = text[start..range.end].find(&token.text) {
                    next.push((start..start + at, None));
                    next.push((start + at..start + at + token.text.len(), Some(token.id)));
                    start += at + token.text.len();
                }
                next.push((start..range.end, None));
            }
            parts = next;
        }
        let expected: Vec<_> = parts.into_iter().filter_map(|(range, id)| Some((range, id?))).collect();
        assert_eq!(found, expected, "{texts:?} in {text:?}");
    }
}

#[test]
fn control_tokens_are_found_in_open_places_alone() {
    let token = Added::plain(9, "<|x|>".into(), true);
    for tokens in [
        AddedTokens::leftmost(vec![token.clone()]).unwrap(),
        AddedTokens::longest(vec![token.clone()]).unwrap(),
    ] {
        let text = "<|x|><|x|><|x|>";
        assert_eq!(tokens.find(text, std::slice::from_ref(&(5..10))).unwrap(), [(5..10, 9)]);
        assert_eq!(tokens.find(text, &[0..4, 6..15]).unwrap(), [(10..15, 9)]);
        assert_eq!(tokens.find(text, &[]).unwrap(), []);
    }
}

#[test]
fn long_words_merge_as_short_ones() {
    let (file, model) = demo();
    let Some(json::Vocab::Ids(all)) = &file.model.vocab else { panic!("no vocabulary") };
    let Model::BytePair(model) = model else { panic!("no merges") };
    let mut longest: Vec<&str> = all.iter().map(|(t, _)| t.as_str()).filter(|t| t.is_ascii()).collect();
    longest.sort_by_key(|t| std::cmp::Reverse(t.len()));
    let word = longest[..12].concat();
    let mut whole = Vec::new();
    model.encode(&word, &mut Remembered::new(), &mut whole);
    let library = tokenizers::models::bpe::BPE::builder()
        .vocab_and_merges(
            all.iter().map(|(t, id)| (t.clone(), *id as u32)).collect::<tokenizers::models::bpe::Vocab>(),
            file.model.merges.iter().flatten().map(|m| (m.0.clone(), m.1.clone())).collect(),
        )
        .build()
        .unwrap();
    let expected: Vec<u32> =
        tokenizers::Model::tokenize(&library, &word).unwrap().iter().map(|token| token.id).collect();
    assert_eq!(whole, expected);
}
