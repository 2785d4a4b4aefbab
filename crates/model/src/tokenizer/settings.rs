//! Settings of a tokenizer that are not in its own file: `tokenizer_config.json`, `special_tokens_map.json`,
//! `added_tokens.json`, and the ids in `config.json` and `generation_config.json`.

use super::TokenizerError;
use super::json::AddedToken;
use kvant_io::HuggingFace;
use serde_json::Value as Json;
use std::collections::{HashMap, HashSet};

/// Keys of special tokens in the settings. Such a key is the role of its token.
const ROLES: &[&str] =
    &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The settings of a folder.
pub(super) struct Settings {
    /// `tokenizer_config.json`.
    config: Json,
    /// `special_tokens_map.json`.
    map: Json,
    /// Added tokens of the settings, in order of ids.
    pub added: Vec<AddedToken>,
    /// Texts of special tokens: tokens with a role, and tokens in the lists of additional special tokens.
    pub special: HashSet<String>,
}

impl Settings {
    pub fn new(folder: &HuggingFace) -> Result<Self, TokenizerError> {
        let mut settings = Self {
            config: folder.tokenizer_config.clone().unwrap_or_default(),
            map: folder.special_tokens_map.clone().unwrap_or_default(),
            added: Vec::new(),
            special: HashSet::new(),
        };
        let mut special: HashSet<String> =
            ROLES.iter().filter_map(|role| settings.text(role)).map(str::to_owned).collect();
        for list in ["additional_special_tokens", "extra_special_tokens"] {
            for source in [&settings.config, &settings.map] {
                let texts = source[list].as_array().into_iter().flatten();
                special.extend(texts.filter_map(content).map(str::to_owned));
            }
        }
        special.retain(|text| !text.is_empty());
        settings.special = special;
        settings.added = settings.beside(folder)?;
        Ok(settings)
    }

    /// Reads the added tokens from `added_tokens_decoder`. If there is no such key, reads the older
    /// `added_tokens.json`.
    fn beside(&self, folder: &HuggingFace) -> Result<Vec<AddedToken>, TokenizerError> {
        let bad = |file: &str, key: &str, found: &Json| TokenizerError::File {
            path: folder.folder.join(file),
            source: Box::new(TokenizerError::key(key, "an id and a text", found.to_string())),
        };
        let mut all = Vec::new();
        if let Some(entries) = self.config["added_tokens_decoder"].as_object() {
            for (id, entry) in entries {
                let id = id.parse::<u64>().ok();
                let (Some(id), Some(text)) = (id, content(entry)) else {
                    return Err(bad("tokenizer_config.json", "added_tokens_decoder", entry));
                };
                let is = |key: &str| entry[key].as_bool().unwrap_or(false);
                all.push(AddedToken {
                    id: Some(id),
                    content: text.to_owned(),
                    single_word: is("single_word"),
                    lstrip: is("lstrip"),
                    rstrip: is("rstrip"),
                    normalized: entry["normalized"].as_bool(),
                    special: is("special"),
                });
            }
        } else if let Some(older) = &folder.added_tokens {
            let entries = older
                .as_object()
                .ok_or_else(|| bad("added_tokens.json", "the file", &Json::from("no object")))?;
            for (text, id) in entries {
                let Some(number) = id.as_u64() else {
                    return Err(bad("added_tokens.json", text, id));
                };
                let special = self.special.contains(text);
                all.push(AddedToken {
                    id: Some(number),
                    content: text.clone(),
                    single_word: false,
                    lstrip: false,
                    rstrip: false,
                    normalized: Some(!special),
                    special,
                });
            }
        }
        all.sort_by_key(|t| t.id);
        Ok(all)
    }

    /// The text of the token with this role; `None` if no token has it.
    pub fn text(&self, role: &str) -> Option<&str> {
        [&self.config, &self.map].into_iter().find_map(|source| source.get(role).and_then(content))
    }

    /// A truth value in `tokenizer_config.json`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key)?.as_bool()
    }

    /// The value of `tokenizer_class`, without the ending `Fast`.
    pub fn class(&self) -> Option<&str> {
        let class = self.config.get("tokenizer_class")?.as_str()?;
        Some(class.strip_suffix("Fast").unwrap_or(class))
    }

    /// The chat template. Of several templates this is the one with the name `default`.
    pub fn chat_template(&self, folder: &HuggingFace, notes: &mut Vec<String>) -> Option<String> {
        if let Some(template) = &folder.chat_template {
            return Some(template.clone());
        }
        match self.config.get("chat_template")? {
            Json::String(template) => Some(template.clone()),
            Json::Array(list) => {
                let names: Vec<&str> = list.iter().filter_map(|t| t["name"].as_str()).collect();
                let default = list.iter().find(|t| t["name"].as_str() == Some("default"));
                let others: Vec<&str> = names.into_iter().filter(|name| *name != "default").collect();
                if !others.is_empty() {
                    notes.push(format!(
                        "there are several chat templates; only the default one is carried over, not {}",
                        others.join(", ")
                    ));
                }
                if default.is_none() {
                    notes.push("none of the chat templates is named default; none is carried over".into());
                }
                default.and_then(|t| t["template"].as_str()).map(str::to_owned)
            }
            Json::Null => None,
            _ => {
                notes.push(
                    "chat_template is neither a text nor a list of texts; it is not carried over".into(),
                );
                None
            }
        }
    }
}

/// The text of a token. In the file the token is a text, or an object with the key `content`.
fn content(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// Finds the ids of tokens that the settings name.
pub(super) struct Named<'a> {
    pub folder: &'a HuggingFace,
    pub by_text: &'a HashMap<String, u32>,
    pub tokens: &'a [String],
}

impl Named<'_> {
    /// The id of the token with this role.
    pub fn id(&self, settings: &Settings, role: &str) -> Option<u32> {
        settings.text(role).and_then(|t| self.by_text.get(t).copied())
    }

    /// The token that ends a text. It has the text of the role `eos_token`. If several tokens have this text, it is the
    /// one whose id is in `ends`. If no token has the role, it is the first id of `ends`.
    pub fn eos(&self, settings: &Settings, ends: &[u32]) -> Option<u32> {
        let Some(text) = settings.text("eos_token") else { return ends.first().copied() };
        let same = |id: &&u32| self.tokens.get(**id as usize).is_some_and(|t| t == text);
        ends.iter().find(same).copied().or(self.by_text.get(text).copied()).or(ends.first().copied())
    }

    /// Number of rows of the embedding. All ids of the network are below this number.
    fn rows(&self) -> u64 {
        let text = self.folder.config.get("text_config");
        let size = |json: Option<&Json>| json.and_then(|c| c.get("vocab_size")).and_then(Json::as_u64);
        size(Some(&self.folder.config)).or(size(text)).unwrap_or(0).max(self.tokens.len() as u64)
    }

    /// The ids of a key, whose value is one id or a list of ids. Ids without a row in the embedding are dropped.
    pub fn ids(&self, json: Option<&Json>, key: &str) -> Vec<u32> {
        let rows = self.rows();
        listed(json, key)
            .into_iter()
            .filter_map(|id| u32::try_from(id).ok())
            .filter(|id| u64::from(*id) < rows)
            .collect()
    }

    /// Notes on tokens that the settings name but the tokenizer does not have.
    pub fn notes(&self, settings: &Settings) -> Vec<String> {
        let mut notes = Vec::new();
        for role in ["bos_token", "eos_token"] {
            if let Some(text) = settings.text(role)
                && !text.is_empty()
                && !self.by_text.contains_key(text)
            {
                notes.push(format!("{role} {text:?} of tokenizer_config.json is no token of this tokenizer"));
            }
        }
        let rows = self.rows();
        for (file, json) in [
            ("generation_config.json", self.folder.generation_config.as_ref()),
            ("config.json", Some(&self.folder.config)),
        ] {
            for id in listed(json, "eos_token_id").into_iter().filter(|id| *id >= rows) {
                notes.push(format!("eos_token_id {id} of {file} is no token; there are {rows}"));
            }
        }
        notes
    }
}

/// The numbers of a key, whose value is one number or a list of numbers.
fn listed(json: Option<&Json>, key: &str) -> Vec<u64> {
    let Some(value) = json.and_then(|j| j.get(key)) else { return Vec::new() };
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(Json::as_u64).collect()
}
