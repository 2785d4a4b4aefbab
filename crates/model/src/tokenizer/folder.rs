//! Reads the tokenizer of a Hugging Face folder, with the settings in other files of the folder. The file is chosen as
//! in `transformers`: `tokenizer.json`, else `tokenizer.model`, else `vocab.json` with `merges.txt`.
//!
//! The result has two parts. The first part is the algorithm that converts text to ids. Its ids are exactly those of
//! the libraries. The second part is a [`Vocabulary`], which holds the settings that GGUF can express. A setting that
//! GGUF cannot express becomes a note. If GGUF cannot express the tokenizer at all, the kind of the vocabulary is
//! [`Kind::Folder`].

use super::added::Added;
use super::express::{added_notes, gguf_kind, merges_notes, metaspace_notes, respell_word_pieces};
use super::json::{self, AddedToken};
use super::model::{Model, type_of};
use super::pipeline::{Entry, Pipeline};
use super::settings::{Named, Settings};
use super::vocabulary::looks_special;
use super::{Engine, Kind, Spelling, TokenKind, TokenizerError, Vocabulary, sentencepiece};
use kvant_io::HuggingFace;
use serde_json::Value as Json;
use std::collections::{HashMap, HashSet};

/// The tokenizer of a folder.
pub(super) struct Loaded {
    pub vocabulary: Vocabulary,
    pub engine: Engine,
    pub spelling: Spelling,
    /// Ids that are added before and after every text.
    pub around: (Vec<u32>, Vec<u32>),
    /// Settings of this tokenizer that GGUF cannot express, one sentence each.
    pub notes: Vec<String>,
}

/// Reads the tokenizer of a folder; returns `None` if the folder has no tokenizer file.
pub(super) fn read(folder: &HuggingFace) -> Result<Option<Loaded>, TokenizerError> {
    let at = |name: &str| {
        let path = folder.folder.join(name);
        move |source| TokenizerError::File { path: path.clone(), source: Box::new(source) }
    };
    if let Some(bytes) = &folder.tokenizer {
        return fast(folder, bytes).map(Some).map_err(at("tokenizer.json"));
    }
    if let Some(bytes) = &folder.tokenizer_model {
        return super::slow::sentencepiece(folder, bytes).map(Some).map_err(at("tokenizer.model"));
    }
    match (&folder.vocab, &folder.merges) {
        (None, None) => Ok(None),
        (Some(vocabulary), Some(merges)) => {
            super::slow::vocabulary_and_merges(folder, vocabulary, merges).map(Some)
        }
        (Some(_), None) => Err(at("merges.txt")(missing("vocab.json"))),
        (None, Some(_)) => Err(at("vocab.json")(missing("merges.txt"))),
    }
}

/// The error for a missing file that belongs to the file `other`.
fn missing(other: &str) -> TokenizerError {
    TokenizerError::key("no such file", format!("one beside {other}"), "half of a tokenizer")
}

/// Returns `bytes`, the content of a file; returns an error if the file is empty or has only white space. (`kvant_io`
/// has already refused Git LFS pointers and skipped byte order marks.)
pub(super) fn content(bytes: &[u8]) -> Result<&[u8], TokenizerError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(TokenizerError::key(
            "content",
            "a tokenizer (is the download complete?)",
            "an empty file",
        ));
    }
    Ok(bytes)
}

/// Parses a JSON file of a tokenizer.
pub(super) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, TokenizerError> {
    serde_json::from_slice(content(bytes)?)
        .map_err(|e| TokenizerError::key("content", "JSON of a tokenizer", e.to_string()))
}

/// The table of tokens. `tokens` and `kinds` are indexed by id.
pub(super) struct Table {
    pub tokens: Vec<String>,
    pub kinds: Vec<TokenKind>,
    /// The text of a token → its id. If several tokens have the same text, this is the id that encoding gives.
    pub by_text: HashMap<String, u32>,
    pub notes: Vec<String>,
}

impl Table {
    /// Makes the table from the text, id and kind of every token.
    pub fn new(entries: impl Iterator<Item = (String, u64, TokenKind)>) -> Result<Self, TokenizerError> {
        let mut table =
            Self { tokens: Vec::new(), kinds: Vec::new(), by_text: HashMap::new(), notes: Vec::new() };
        let entries: Vec<_> = entries.collect();
        let last = entries.iter().map(|(_, id, _)| *id).max();
        let expected = entries.len();
        for (text, id, kind) in entries {
            table.check(id, last, expected)?;
            table.by_text.insert(text.clone(), id as u32);
            table.set(id as u32, text, kind);
        }
        Ok(table)
    }

    /// Checks an id. Gaps between ids are allowed. But the table has an entry for every id, so a few tokens must not
    /// claim millions of ids. `last` is the largest id of the file, and `count` is the number of its tokens.
    fn check(&self, id: u64, last: Option<u64>, count: usize) -> Result<(), TokenizerError> {
        let last = last.unwrap_or(id).max(id);
        if last >= u64::from(super::LARGEST_ID) || last as usize > 4 * count.max(self.tokens.len()) + 1024 {
            let found = format!("{} tokens up to id {last}", count.max(self.tokens.len()));
            return Err(TokenizerError::key("ids", "dense ids below 2^22", found));
        }
        Ok(())
    }

    /// Sets a token. Unused tokens fill a gap before it.
    fn set(&mut self, id: u32, text: String, kind: TokenKind) {
        let id = id as usize;
        while self.tokens.len() <= id {
            self.tokens.push(format!("[PAD{}]", self.tokens.len()));
            self.kinds.push(TokenKind::Unused);
        }
        self.tokens[id] = text;
        self.kinds[id] = kind;
    }

    /// The first id after all tokens of the table.
    fn next(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Adds a token that is listed separately from the model's vocabulary. Returns the id that encoding gives for its
    /// text. `named` has the texts of special tokens in the settings.
    pub fn add(&mut self, token: &AddedToken, named: &HashSet<String>) -> Result<u32, TokenizerError> {
        if let Some(id) = token.id {
            self.check(id, None, self.tokens.len())?;
        }
        let control = token.special || looks_special(&token.content) || named.contains(&token.content);
        let kind = if control { TokenKind::Control } else { TokenKind::UserDefined };
        let known = self.by_text.get(&token.content).copied();
        let listed = token.id.map(|id| id as u32);
        let id = known.or(listed).unwrap_or(self.next());
        if let Some(known) = known
            && self.kinds[known as usize] != TokenKind::Unknown
        {
            self.kinds[known as usize] = kind;
        }
        match (known, listed) {
            // One text has two ids. Encoding gives the first id. The second id keeps its text for decoding.
            (Some(known), Some(listed)) if known != listed => {
                self.notes.push(format!(
                    "token {:?} has the ids {known} and {listed}; text becomes {known} in this folder",
                    token.content
                ));
                if self.kinds.get(listed as usize).is_none_or(|k| *k == TokenKind::Unused) {
                    self.set(listed, token.content.clone(), kind);
                }
            }
            (Some(_), _) => {}
            (None, _) => {
                self.by_text.insert(token.content.clone(), id);
                self.set(id, token.content.clone(), kind);
            }
        }
        Ok(id)
    }
}

/// Reads a `tokenizer.json`.
fn fast(folder: &HuggingFace, bytes: &[u8]) -> Result<Loaded, TokenizerError> {
    let file: json::File = parse(bytes)?;
    let settings = Settings::new(folder)?;
    let of_bytes = Pipeline::of_bytes(&file) && is_plain_bytes(&file.model);
    let model = Model::new(&file.model, of_bytes)?;
    let entries: Box<dyn Iterator<Item = (String, u64, TokenKind)>> = match &file.model.vocab {
        Some(json::Vocab::Ids(all)) => {
            Box::new(all.iter().map(|(t, id)| (t.clone(), *id, TokenKind::Normal)))
        }
        Some(json::Vocab::Scores(all)) => {
            Box::new((0..).zip(all).map(|(id, (t, _))| (t.clone(), id, TokenKind::Normal)))
        }
        None => Box::new(std::iter::empty()),
    };
    let mut table = Table::new(entries)?;
    if table.tokens.is_empty() && file.added_tokens.as_ref().is_none_or(Vec::is_empty) {
        return Err(TokenizerError::key("model.vocab", "at least one token", "none"));
    }
    let listed: Vec<AddedToken> = file.added_tokens.unwrap_or_default();
    let own = library_ids(&listed, &table)?;
    let added = add_all(&mut table, listed, Some(own), &settings)?;

    let byte_fallback = file.model.byte_fallback.unwrap_or(false);
    if byte_fallback {
        for (token, kind) in table.tokens.iter().zip(&mut table.kinds) {
            if *kind == TokenKind::Normal && sentencepiece::byte(token).is_some() {
                *kind = TokenKind::Byte;
            }
        }
    }
    let mut kind = gguf_kind(&file.model, &file.normalizer.0, &file.pre_tokenizer.0, &table.tokens);
    let names = |id: &str| table.by_text.get(id).copied();
    let around = post_processor(&file.post_processor.0, &names)?;
    let spelling = spelling(&file.decoder.0, of_bytes, byte_fallback, &file.model);
    if let Kind::WordPiece { separator, .. } = &mut kind {
        *separator = around.1.last().copied();
    }
    let by_id = || table.tokens.get(usize::try_from(file.model.unk_id?).ok()?).cloned();
    let unknown = file.model.unk_token.clone().or_else(by_id);
    let pipeline = Pipeline::new(
        &file.normalizer.0,
        &file.pre_tokenizer.0,
        of_bytes,
        entries_of(&added, &table),
        model,
    )?;
    let engine = (Engine::Pipeline(Box::new(pipeline)), spelling);
    let mut loaded = finish(folder, table, kind, unknown, around, &settings, engine)?;
    if matches!(loaded.vocabulary.kind, Kind::WordPiece { .. }) {
        respell_word_pieces(&mut loaded.vocabulary);
        loaded.spelling = Spelling::Marks;
    }
    loaded.notes.extend(added_notes(&added));
    loaded.notes.extend(metaspace_notes(&file.pre_tokenizer.0));
    loaded.notes.extend(merges_notes(&loaded.vocabulary));
    Ok(loaded)
}

/// True if the model can encode words of bytes: it is a BPE model with a token for every byte, without a prefix or
/// suffix.
fn is_plain_bytes(model: &json::Model) -> bool {
    let plain = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    let Some(json::Vocab::Ids(all)) = &model.vocab else { return false };
    let single =
        all.iter().filter(|(t, _)| t.chars().nth(1).is_none() && super::byte_pair::bytes(t).len() == 1);
    type_of(model) == "BPE"
        && plain(&model.continuing_subword_prefix)
        && plain(&model.end_of_word_suffix)
        && single.count() >= 256
}

/// The ids that the `tokenizers` library gives to the added tokens of the file. The library finds a token by its text
/// and ignores the id in the file. A new text gets the next free id.
fn library_ids(listed: &[AddedToken], table: &Table) -> Result<Vec<u32>, TokenizerError> {
    let size = table.by_text.len() as u32;
    let mut given: HashMap<&str, u32> = HashMap::new();
    let mut highest: Option<u32> = None;
    let mut ids = Vec::with_capacity(listed.len());
    for token in listed {
        let known = given.get(token.content.as_str()).or_else(|| table.by_text.get(&token.content));
        let id = known.copied().unwrap_or_else(|| match highest {
            Some(highest) if highest >= size || size == 0 => highest + 1,
            _ => size,
        });
        if !token.content.is_empty() {
            given.insert(&token.content, id);
            highest = highest.max(Some(id));
        }
        ids.push(id);
    }
    Ok(ids)
}

/// Adds the tokens in `listed` and the added tokens of the settings to the table. Returns each token with the id that
/// encoding gives for its text. `library` has the result of [`library_ids`] for `listed`.
pub(super) fn add_all(
    table: &mut Table,
    listed: Vec<AddedToken>,
    library: Option<Vec<u32>>,
    settings: &Settings,
) -> Result<Vec<(AddedToken, u32)>, TokenizerError> {
    let mut added: Vec<(AddedToken, u32)> = Vec::new();
    let mut place: HashMap<String, usize> = HashMap::new();
    let library = library.unwrap_or_default();
    for (index, token) in listed.into_iter().enumerate() {
        let id = table.add(&token, &settings.special)?;
        let given = library.get(index).copied().unwrap_or(id);
        if given != id && !place.contains_key(&token.content) {
            table.notes.push(format!(
                "token {:?} has the id {id} in the file, but `tokenizers` gives {given}, and so does this folder",
                token.content
            ));
        }
        place.entry(token.content.clone()).or_insert(added.len());
        added.push((token, given));
    }
    for token in &settings.added {
        if token.content.is_empty() {
            continue;
        }
        let id = table.add(token, &settings.special)?;
        match place.get(&token.content) {
            // The settings override the file's `single_word`, `lstrip` and `rstrip`.
            Some(&at) => {
                let (earlier, given) = &mut added[at];
                earlier.single_word = token.single_word;
                earlier.lstrip = token.lstrip;
                earlier.rstrip = token.rstrip;
                let given = *given;
                if token.normalized != added[at].0.normalized {
                    added.push((token.clone(), given));
                }
            }
            None => {
                place.insert(token.content.clone(), added.len());
                added.push((token.clone(), id));
            }
        }
    }
    // A special token of the settings is also an added token, even if no list contains it.
    for text in &settings.special {
        if !place.contains_key(text)
            && let Some(&id) = table.by_text.get(text)
        {
            let token = AddedToken {
                id: None,
                content: text.clone(),
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: Some(false),
                special: true,
            };
            table.add(&token, &settings.special)?;
            place.insert(text.clone(), added.len());
            added.push((token, id));
        }
    }
    Ok(added)
}

/// The added tokens for the search in a text.
pub(super) fn entries_of(added: &[(AddedToken, u32)], table: &Table) -> Vec<Entry> {
    // Special tokens come first, because the library prefers them to other tokens of the same length.
    let mut order: Vec<&(AddedToken, u32)> = added.iter().collect();
    order.sort_by_key(|(token, _)| !token.special);
    let entry = |(token, id): &&(AddedToken, u32)| {
        let listed = table.by_text.get(&token.content).copied().unwrap_or(*id);
        let kind = table.kinds.get(listed as usize);
        let control = matches!(kind, Some(TokenKind::Control | TokenKind::Unknown));
        Entry {
            token: Added {
                id: *id,
                text: token.content.clone(),
                control,
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
            },
            normalized: token.normalized.unwrap_or(!token.special),
        }
    };
    order.iter().map(entry).collect()
}

/// Makes the result from the parts that all kinds of tokenizer files have.
pub(super) fn finish(
    folder: &HuggingFace,
    mut table: Table,
    kind: Kind,
    unknown: Option<String>,
    around: (Vec<u32>, Vec<u32>),
    settings: &Settings,
    (engine, spelling): (Engine, Spelling),
) -> Result<Loaded, TokenizerError> {
    let named = Named { folder, by_text: &table.by_text, tokens: &table.tokens };
    let unknown =
        unknown.as_deref().or(settings.text("unk_token")).and_then(|t| table.by_text.get(t).copied());
    let mut ends = named.ids(folder.generation_config.as_ref(), "eos_token_id");
    ends.extend(named.ids(Some(&folder.config), "eos_token_id"));
    let mut notes = std::mem::take(&mut table.notes);
    notes.extend(named.notes(settings));
    let eos = named.eos(settings, &ends);
    // If the settings name no BOS or EOS, the control tokens that are added around every text are used.
    let control = |id: &u32| table.kinds.get(*id as usize) == Some(&TokenKind::Control);
    let eos = eos.or(around.1.last().copied().filter(control));
    let bos = named
        .id(settings, "bos_token")
        .or(named.ids(Some(&folder.config), "bos_token_id").first().copied())
        .or(around.0.first().copied().filter(control));
    let (padding, mask) = (named.id(settings, "pad_token"), named.id(settings, "mask_token"));
    let (mut before, mut after) = around;
    let begins = bos.is_some() && before.first().copied() == bos;
    let ends_text = eos.is_some() && after.last().copied() == eos;
    let add_bos = bos.is_some() && settings.flag("add_bos_token").unwrap_or(begins);
    let add_eos = eos.is_some() && settings.flag("add_eos_token").unwrap_or(ends_text);
    match (begins, add_bos) {
        (true, false) => drop(before.remove(0)),
        (false, true) => before.splice(0..0, bos).for_each(drop),
        _ => {}
    }
    match (ends_text, add_eos) {
        (true, false) => drop(after.pop()),
        (false, true) => after.extend(eos),
        _ => {}
    }
    let said = (
        bos.filter(|_| add_bos).into_iter().collect::<Vec<_>>(),
        eos.filter(|_| add_eos).into_iter().collect(),
    );
    if said != (before.clone(), after.clone()) {
        notes.push(format!(
            "the ids around every text are {before:?} and {after:?}; a GGUF says {:?} and {:?}",
            said.0, said.1
        ));
    }
    if let Some(id) = unknown.filter(|_| !matches!(kind, Kind::BytePair { .. })) {
        table.kinds[id as usize] = TokenKind::Unknown;
    }
    // A token that begins or ends a text is a control token, independent of its kind in the file.
    for id in [bos, eos].into_iter().flatten().chain(ends.iter().copied()) {
        if let Some(kind) = table.kinds.get_mut(id as usize)
            && *kind == TokenKind::UserDefined
        {
            *kind = TokenKind::Control;
        }
    }
    // In the folder a user-defined token spells a space as `▁`, as in SentencePiece. In GGUF its text has plain spaces.
    for (token, kind) in table.tokens.iter_mut().zip(&table.kinds) {
        if *kind == TokenKind::UserDefined {
            *token = token.replace(sentencepiece::SPACE, " ");
        }
    }
    let vocabulary = Vocabulary {
        bos,
        eos,
        eot: ends.iter().copied().find(|id| Some(*id) != eos),
        unknown,
        padding,
        mask,
        add_bos,
        add_eos,
        takes_before: Vec::new(),
        takes_after: Vec::new(),
        more_ends: ends,
        chat_template: settings.chat_template(folder, &mut notes),
        kind,
        kinds: table.kinds,
        tokens: table.tokens,
    };
    Ok(Loaded { vocabulary, engine, spelling, around: (before, after), notes })
}

/// Determines from the decoder, or from the type of the model, how tokens spell text.
fn spelling(decoder: &Json, of_bytes: bool, byte_fallback: bool, model: &json::Model) -> Spelling {
    let steps = json::steps(decoder, "decoders");
    let has = |name: &str| steps.iter().any(|s| json::kind(s) == name);
    if of_bytes || has("ByteLevel") {
        return Spelling::Bytes;
    }
    if let Some(prefix) = steps.iter().find(|s| json::kind(s) == "WordPiece") {
        return Spelling::Words { prefix: prefix["prefix"].as_str().unwrap_or("##").to_owned() };
    }
    match type_of(model) {
        "WordPiece" => {
            Spelling::Words { prefix: model.continuing_subword_prefix.clone().unwrap_or_else(|| "##".into()) }
        }
        "WordLevel" => Spelling::Words { prefix: String::new() },
        _ if byte_fallback || has("Metaspace") || has("Replace") => Spelling::Marks,
        "Unigram" => Spelling::Marks,
        _ => Spelling::Plain,
    }
}

/// The ids that the post-processor adds before and after a single text. `id` returns the id of a token's text.
fn post_processor(
    json: &Json,
    id: &dyn Fn(&str) -> Option<u32>,
) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for step in json::steps(json, "processors") {
        match json::kind(&step) {
            "TemplateProcessing" => {
                let mut seen = false;
                let (mut first, mut last) = (Vec::new(), Vec::new());
                for entry in step["single"].as_array().map_or(&[][..], Vec::as_slice) {
                    let Some(name) = entry["SpecialToken"]["id"].as_str() else {
                        seen = true;
                        continue;
                    };
                    let ids = step["special_tokens"][name]["ids"].as_array();
                    let ids: Option<Vec<u32>> = match ids {
                        Some(ids) => {
                            ids.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
                        }
                        None => id(name).map(|id| vec![id]),
                    };
                    let ids = ids.ok_or_else(|| {
                        TokenizerError::key(
                            "post_processor.special_tokens",
                            format!("ids of {name:?}"),
                            "none",
                        )
                    })?;
                    if seen { last.extend(ids) } else { first.extend(ids) }
                }
                before.splice(0..0, first);
                after.extend(last);
            }
            "BertProcessing" | "RobertaProcessing" => {
                let pair = |key: &str| step[key][1].as_u64().and_then(|id| u32::try_from(id).ok());
                let both = pair("cls").zip(pair("sep"));
                let (cls, sep) = both.ok_or_else(|| {
                    TokenizerError::key("post_processor", "cls and sep with their ids", step.to_string())
                })?;
                before.insert(0, cls);
                after.push(sep);
            }
            "ByteLevel" => {}
            other => {
                return Err(TokenizerError::key(
                    "post_processor",
                    "TemplateProcessing, BertProcessing, RobertaProcessing or ByteLevel",
                    other,
                ));
            }
        }
    }
    Ok((before, after))
}
