//! The modules of a sentence-transformers folder: the steps from a text to its vector.
//!
//! `modules.json` lists them in order: the network, a pooling, and optionally linear maps and a division by the length. A
//! module has a folder of its own with its settings; that of the network is the main folder.
//! Source: `sentence-transformers`' `SentenceTransformer.py` and `models/`.

use crate::json::read_json;
use crate::{Error, Limits};
use serde_json::Value;
use std::path::Path;

/// The largest number of modules that is read: many times that of published models.
const MOST_MODULES: usize = 16;

/// One module of a sentence-transformers folder.
#[derive(Clone, Debug)]
pub struct Module {
    /// The last part of its type, for example `Pooling`.
    pub kind: String,
    /// The name of its folder; empty for the main folder.
    pub folder: String,
    /// Its settings: `config.json` of its folder, or `sentence_bert_config.json` of the main folder.
    pub settings: Value,
}

/// Reads the modules of a folder; an empty list if the folder has no `modules.json`.
///
/// # Errors
/// The errors of reading a JSON file; [`Error::BadMetadata`] for an entry without a type, or with a path that is not the
/// name of a folder beside the file.
pub(super) fn read(folder: &Path, limits: &Limits) -> Result<Vec<Module>, Error> {
    let path = folder.join("modules.json");
    let Some(listed) = read_json(&path, limits)? else { return Ok(Vec::new()) };
    let bad = |key: &str, expected, found: &Value| Error::BadMetadata {
        path: path.clone(),
        key: key.into(),
        expected,
        found: found.to_string(),
    };
    let entries = listed.as_array().ok_or_else(|| bad("the file", "a list of modules", &"no list".into()))?;
    if entries.len() > MOST_MODULES {
        let (found, max) = (entries.len() as u64, MOST_MODULES as u64);
        return Err(Error::Limit { path, what: "modules", found, max });
    }
    let module = |entry: &Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let kind = text("type").ok_or_else(|| bad("type", "the name of a class", entry))?;
        let own = text("path").unwrap_or_default();
        // A name with a path separator could lead out of the folder.
        let plain = own.is_empty()
            || Path::new(own).file_name().is_some_and(|name| name == own) && !own.contains(['/', '\\']);
        if !plain {
            return Err(bad("path", "the name of a folder beside the file", &own.into()));
        }
        let settings = match own {
            "" => folder.join("sentence_bert_config.json"),
            own => folder.join(own).join("config.json"),
        };
        Ok(Module {
            kind: kind.rsplit('.').next().unwrap_or(kind).to_owned(),
            folder: own.to_owned(),
            settings: read_json(&settings, limits)?.unwrap_or_default(),
        })
    };
    entries.iter().map(module).collect()
}
