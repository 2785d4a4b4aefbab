//! Tests of single parts against references: regular expressions for the hand-written rules, the library's steps for
//! the fast variants, and llama.cpp's loop for added tokens.

use super::added::{Added, AddedTokens};
use super::byte_pair::Remembered;
use super::cut::{Cut, cut_all};
use super::json;
use super::model::Model;
use super::pipeline::{Entry, Pipeline};
use super::prefixes::Prefixes;
use super::steps::Normalizer;
use super::words::{self, Words};
use super::{PreTokenizer, TokenizerError, expressions};
use kvant_io::{Array, Value};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The hand-written rules with their expressions.
const SPLITS: [(Words, &str); 9] = [
    (Words::GPT2, words::GPT2),
    (Words::LLAMA3, words::LLAMA3),
    (Words::QWEN2, words::QWEN2),
    (Words::QWEN2, words::BAILING),
    (Words::QWEN35, words::QWEN35),
    (Words::MINICPM5, words::MINICPM5),
    (Words::SEED_CODER, words::SEED_CODER),
    (
        Words::QWEN2,
        r"'(?:[sStTmMdD]|[rRvV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (Words::UFAKZEKA, r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
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

/// The parts of a text: the matches of an expression and the texts between them.
fn parts<'a>(expression: &fancy_regex::Regex, text: &'a str) -> Vec<&'a str> {
    let mut end = 0;
    let mut parts = Vec::new();
    for found in expression.find_iter(text) {
        let found = found.unwrap();
        parts.extend([&text[end..found.start()], found.as_str()]);
        end = found.end();
    }
    parts.push(&text[end..]);
    parts.retain(|part| !part.is_empty());
    parts
}

fn cut<'a>(cuts: &[Cut], text: &'a str) -> Vec<&'a str> {
    let mut words = Vec::new();
    let taken = cut_all(cuts, text, &mut |word| {
        words.push(word);
        Ok(())
    });
    taken.unwrap();
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn splits_by_hand_are_the_expressions() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for (rule, expression) in SPLITS {
        let compiled = fancy_regex::Regex::new(expression).unwrap();
        // A rule that is known by its expression folds the long s, as the regex engine does.
        let rule = Words::by_expression(expression).unwrap_or(rule);
        for _ in 0..8000 {
            let text = random_text(&mut random, CHARACTERS, 24);
            assert_eq!(cut(&[Cut::Words(rule)], &text), parts(&compiled, &text), "{expression} {text:?}");
        }
    }
}

#[test]
fn the_linear_engine_gives_the_matches_of_the_backtracking_one() {
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let expressions = [
        expressions::original::GPT4O,
        expressions::original::TEKKEN,
        expressions::original::DEEPSEEK3,
        expressions::original::LATIN_AND_MORE,
        expressions::original::BLOOM,
        r"\s+$",
        r"[aeiou]+|\s",
        r"\p{N}{1,3}",
    ];
    for expression in expressions {
        let compiled = fancy_regex::Regex::new(expression).unwrap();
        let linear = Cut::expression(expression).unwrap();
        assert!(matches!(linear, Cut::Linear { .. }), "{expression}");
        for _ in 0..3000 {
            let text = random_text(&mut random, CHARACTERS, 24);
            assert_eq!(
                cut(std::slice::from_ref(&linear), &text),
                parts(&compiled, &text),
                "{expression} {text:?}"
            );
        }
    }
    // Jais 2: the look-around for white space of many lengths.
    let compiled = fancy_regex::Regex::new(expressions::original::JAIS2).unwrap();
    let cascade = PreTokenizer::by_name("jais-2").unwrap().cuts().unwrap();
    for count in (0..40).chain([63, 64, 65, 66, 127, 130, 511, 512, 513, 514, 1030]) {
        for after in ["", "a", "\n", "."] {
            let text = format!("x{}{after}", " ".repeat(count));
            assert_eq!(cut(&cascade, &text), parts(&compiled, &text), "{count} {after:?}");
        }
    }
    // Groups of three digits.
    let text = "a1 12 123 1234 1234567 12½345";
    let groups = cut(&PreTokenizer::by_name("superbpe").unwrap().cuts().unwrap(), text);
    assert_eq!(
        groups,
        ["a", "1", " ", "12", " ", "123", " ", "1", "234", " ", "1", "234", "567", " ", "12½", "345"]
    );
}

#[test]
fn expressions_that_the_linear_engine_reads_in_another_way_are_left_to_the_other_engine() {
    for expression in [r"a++b|a", r"a?+b|b", r"[]a[b]]++", r"[^]+]*+b", r"(?=a)|b", r"a*", r"(?:a|b){2}+"] {
        assert!(matches!(Cut::expression(expression).unwrap(), Cut::Backtracking(_)), "{expression}");
    }
    assert!(Cut::expression("(").is_err());
}

#[test]
fn white_space_of_any_length_is_split_as_a_short_one() {
    for name in PreTokenizer::names().filter(|name| !["jais-2", "chameleon"].contains(name)) {
        let cuts = PreTokenizer::by_name(name).unwrap().cuts().unwrap();
        for space in [" ", "\t", "\u{3000}", "\n", " \n"] {
            let lengths = |count: usize| {
                let text = format!("x{}y", space.repeat(count));
                cut(&cuts, &text).iter().map(|w| w.len()).collect::<Vec<_>>()
            };
            let (short, long) = (lengths(10), lengths(200_000));
            // Some rules cut no white space, and some cut it into single characters.
            if (2..10).contains(&short.len()) {
                assert_eq!(short.last(), long.last(), "{name} {space:?}");
                assert_eq!(short.len(), long.len(), "{name} {space:?}");
            }
        }
    }
}

#[test]
fn the_trie_finds_every_prefix() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..500 {
        let mut texts: Vec<String> = (0..1 + random.next_u32() % 40)
            .map(|_| random_text(&mut random, &['a', 'b', 'é', '한'], 6))
            .collect();
        texts.retain(|text| !text.is_empty());
        texts.sort_unstable();
        texts.dedup();
        let prefixes = Prefixes::new(&texts);
        let text = random_text(&mut random, &['a', 'b', 'é', '한'], 9);
        let mut found = Vec::new();
        prefixes.find(text.as_bytes(), |length, index| found.push((length, index)));
        let mut expected: Vec<(usize, usize)> = texts
            .iter()
            .enumerate()
            .filter(|(_, t)| text.starts_with(*t))
            .map(|(i, t)| (t.len(), i))
            .collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let same = |t: &String| t.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        assert_eq!(prefixes.common(text.as_bytes()), texts.iter().map(same).max().unwrap_or(0));
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
fn pieces_between_spaces_give_the_ids_of_the_whole_text() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokens_folder/pieces.json");
    let file: json::File = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(13);
    for (lowercase, strip_accents, clean_text) in
        [(true, serde_json::Value::Null, true), (false, true.into(), true), (false, false.into(), false)]
    {
        let normalizer = serde_json::json!({ "type": "BertNormalizer", "clean_text": clean_text,
            "handle_chinese_chars": true, "strip_accents": strip_accents, "lowercase": lowercase });
        let step = serde_json::json!({ "type": "BertPreTokenizer" });
        let make = || {
            let model = Model::new(&file.model, false).unwrap();
            Pipeline::new(&normalizer, &step, false, Vec::new(), model).unwrap()
        };
        let (short, long) = (make(), make().without_short_ways());
        for _ in 0..2000 {
            let text = random_text(&mut random, CHARACTERS, 40);
            assert_eq!(ids(&short, &text).unwrap(), ids(&long, &text).unwrap(), "{text:?}");
        }
    }
}

/// Returns normalizers that change, add or remove characters.
fn normalizers() -> Vec<serde_json::Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokens_rules/unigram.gguf");
    let checkpoint = kvant_io::open(path.as_ref(), &kvant_io::Limits::default()).unwrap();
    let kvant_io::Meta::Gguf(metadata) = checkpoint.meta() else { panic!("a GGUF file") };
    let charsmap: Vec<u8> = match metadata.get("tokenizer.ggml.precompiled_charsmap") {
        Some(Value::Array(Array::U8(bytes))) => bytes.clone(),
        Some(Value::Array(Array::I8(bytes))) => bytes.iter().map(|b| b.cast_unsigned()).collect(),
        other => panic!("{other:?}"),
    };
    let precompiled = serde_json::json!({ "type": "Precompiled", "precompiled_charsmap": base64(&charsmap) });
    let replace = |pattern: serde_json::Value, content: &str| serde_json::json!({ "type": "Replace", "pattern": pattern, "content": content });
    let kinds = ["NFC", "NFKC", "NFD", "NFKD", "Lowercase", "Nmt"];
    let simple = kinds.map(|kind| serde_json::json!({ "type": kind }));
    let strip = serde_json::json!({ "type": "Strip", "strip_left": true, "strip_right": true });
    let two_spaces = replace(serde_json::json!({ "Regex": " {2,}" }), "▁");
    let removed = replace(serde_json::json!({ "String": "a" }), "");
    let sequence = serde_json::json!({ "type": "Sequence", "normalizers": [precompiled, strip, two_spaces] });
    simple.into_iter().chain([precompiled, strip, two_spaces, removed, sequence]).collect()
}

/// Encodes bytes in base64.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |part: &[u8]| {
        let bits = (0..3).fold(0u32, |bits, i| bits << 8 | u32::from(part.get(i).copied().unwrap_or(0)));
        let digits = (0..=part.len()).map(|i| char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]));
        digits.collect::<String>() + &"=".repeat(3 - part.len())
    };
    bytes.chunks(3).map(group).collect()
}

/// Characters that normalization changes, alone or with their neighbours.
const COMPOSED: &[char] = &[
    ' ', ' ', ' ', '\n', '\r', '\t', '\u{a0}', '\u{3000}', 'a', 'e', 's', 'S', '▁', '\u{301}', '\u{308}',
    '\u{327}', 'É', 'ﬁ', '½', 'Ａ', '…', '①', '한', '\u{1112}', '\u{1161}', '\u{11ab}', 'が', 'か',
    '\u{3099}', 'ｶ', 'ﾞ', '字', '\u{0}', '\u{7f}', '\u{200b}', '\u{200d}', '\u{feff}', '🦊', '🇰', '🇷', 'क',
    '\u{93c}', 'à',
];

#[test]
fn normalizers_before_marks_give_the_ids_of_the_library() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tokens_folder/one.json");
    let file: json::File = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(17);
    for normalizer in normalizers() {
        let steps = json::steps(&normalizer, "normalizers");
        let steps: Vec<Normalizer> = steps.iter().map(|step| Normalizer::new(step).unwrap()).collect();
        for _ in 0..3000 {
            let text = random_text(&mut random, COMPOSED, 24);
            let mut expected = tokenizers::NormalizedString::from(text.as_str());
            steps.iter().for_each(|step| step.apply(&mut expected).unwrap());
            let found =
                steps.iter().try_fold(text.as_str().into(), |text, step| step.normalized(text)).unwrap();
            assert_eq!(found, expected.get(), "{normalizer:.80} {text:?}");
        }
        for (scheme, split, at_spaces) in [
            ("always", true, true),
            ("always", true, false),
            ("never", true, false),
            ("always", false, false),
        ] {
            let marks = serde_json::json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                "split": split });
            let spaces = serde_json::json!({ "type": "WhitespaceSplit" });
            let steps = if at_spaces { vec![spaces, marks] } else { vec![marks] };
            let steps = serde_json::json!({ "type": "Sequence", "pretokenizers": steps });
            let make = || {
                let model = Model::new(&file.model, false).unwrap();
                Pipeline::new(&normalizer, &steps, false, Vec::new(), model).unwrap()
            };
            let (short, long) = (make(), make().without_short_ways());
            for _ in 0..400 {
                let text = random_text(&mut random, COMPOSED, 24);
                let found = ids(&short, &text).unwrap();
                assert_eq!(found, ids(&long, &text).unwrap(), "{normalizer:.80} {steps} {text:?}");
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
    model.encode(&word, &mut Remembered::default(), &mut whole);
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
