//! Makes a recipe from options: file type, method, texts. Checks that the options do not conflict.

use super::Quantize;
use crate::{Error, calibration, calibration_tokens};
use kvant_core::format;
use kvant_eval::{Progress, machine_memory_bytes};
use kvant_io::Limits;
use kvant_model::{Entry, Tokenizer};
use kvant_quant::{
    Calibration, FILE_TYPES, FileType, Importance, METHODS, Need, Override, Reach, Recipe,
    SELF_GENERATED_START, Settings, Solver, method,
};
use std::cell::OnceCell;

/// A model that is larger than this share of the machine's memory does not write self-generated text by default.
const MAX_MEMORY_SHARE: f64 = 0.75;

/// Maximum number of self-generated contexts by default. More contexts do not improve the result (docs/adr/0005).
const MAX_SELF_GENERATED_CONTEXTS: usize = 32;

/// The reason why a format without an encoder is refused.
const READ_ONLY: &str = "read only: kvant reads this format, but does not write it";

/// Returns the file type with this name.
///
/// # Errors
/// An unknown name, or the name of a read-only format.
pub fn file_type(name: &str) -> Result<&'static FileType, Error> {
    let known: Vec<&str> = FILE_TYPES.iter().map(|t| t.name).collect();
    FileType::by_name(&name.to_ascii_lowercase()).ok_or_else(|| {
        let planned = ["gptq", "awq", "ct-int4", "ct-int8", "nf4"];
        let why = match format::by_name(&name.to_ascii_lowercase()) {
            Some(_) => READ_ONLY,
            None if planned.contains(&name) => "not built yet",
            None => "not known",
        };
        Error::option(format!("--format {name}"), format!("{why}; there are {}", known.join(", ")))
    })
}

/// Returns the method with this name.
///
/// # Errors
/// An unknown name.
pub fn method_named(name: &str) -> Result<&'static dyn Solver, Error> {
    let known: Vec<&str> = METHODS.iter().map(|m| m.name()).collect();
    method(name).ok_or_else(|| {
        Error::option(format!("--method {name}"), format!("not known; there are {}", known.join(", ")))
    })
}

impl Quantize<'_> {
    /// Makes the recipe from the options.
    pub(super) fn recipe(&self, progress: &dyn Progress) -> Result<Recipe, Error> {
        let weights = self.model.weights();
        let overrides = self.overrides.iter().map(|text| self.override_of(text)).collect::<Result<_, _>>()?;
        let file_type = file_type(&self.format)?;
        let quantized = self.budget.is_some() || file_type.format().grid().is_some();
        // The tokenizer is loaded only if it is needed, and at most one time.
        let tokenizer = OnceCell::new();
        let loaded = || tokenizer.get_or_init(|| self.model.tokenizer());
        let (method, mut notes) = self.chosen_method(&|| loaded().is_ok(), quantized)?;
        if self.importance.is_some() && method.need() != Need::Importance {
            let reason = format!("the method {} does not read it; --method imatrix does", method.name());
            return Err(Error::option("--imatrix", reason));
        }
        let importance = self.importance.as_ref().map(|path| Importance::read(path, &Limits::default()));
        let importance = importance.transpose()?;
        let calibrates = self.budget.is_some() || method.need() > Need::Nothing && importance.is_none();
        let calibration = if calibrates {
            loaded();
            let tokenizer: Tokenizer = tokenizer.into_inner().unwrap_or_else(|| self.model.tokenizer())?;
            let noise = (method.need() == Need::Hessian).then_some(self.seed);
            let most = self.calibration_tokens.unwrap_or_else(|| calibration_tokens(&self.calibration));
            let calibrated = calibration(&self.calibration, most, noise, weights, &tokenizer)?;
            calibrated.notes.iter().for_each(|note| progress.note(note));
            Some(calibrated.calibration)
        } else {
            None
        };
        let self_generated = self.self_generated(method, calibration.as_ref(), &mut notes)?;
        Ok(Recipe {
            file_type,
            method,
            pure: self.pure,
            formats: None,
            overrides,
            allow_requantize: self.allow_requantize,
            seed: self.seed,
            settings: self.settings(method)?,
            calibration,
            self_generated,
            importance,
            work: self.work.clone(),
            fresh: self.fresh,
            notes,
        })
    }

    /// Parses `PATTERN=FORMAT` and checks that the pattern matches a tensor that can change.
    fn override_of(&self, text: &str) -> Result<Override, Error> {
        let refuse = |reason: String| Error::option(format!("--set {text}"), reason);
        let (pattern, name) =
            text.rsplit_once('=').ok_or_else(|| refuse("expected PATTERN=FORMAT".to_owned()))?;
        let format = format::by_name(&name.to_ascii_lowercase())
            .ok_or_else(|| refuse(format!("there is no format {name}")))?;
        if format.encoder().is_none() {
            return Err(refuse(format!("{name} is {READ_ONLY}")));
        }
        let pattern = regex::Regex::new(pattern).map_err(|error| refuse(error.to_string()))?;
        let parsed = Override { pattern, format };
        match parsed.reach(self.model.weights().entries()) {
            Reach::Changes => Ok(parsed),
            Reach::Kept(name) => Err(refuse(format!(
                "the pattern names only tensors that keep their format, {name} first (norms, biases and vectors are never \
                 quantized)"
            ))),
            Reach::Nothing => Err(refuse(
                "the pattern names no tensor; `kvant inspect` lists those of a GGUF, blk.0.ffn_down.weight is one"
                    .to_owned(),
            )),
        }
    }

    /// Returns the requested method, or the best method that the model and the given files allow. If the model has no
    /// usable tokenizer, the method `auto` is not possible, and a note tells this to the user.
    fn chosen_method(
        &self,
        has_tokenizer: &dyn Fn() -> bool,
        quantized: bool,
    ) -> Result<(&'static dyn Solver, Vec<String>), Error> {
        let (name, note) = match &self.method {
            Some(name) => (name.as_str(), None),
            None if self.importance.is_some() => ("imatrix", None),
            None if !quantized => ("rtn", None),
            None if !has_tokenizer() => (
                "rtn",
                Some(
                    "the model has no tokenizer that can be used, so nothing was calibrated: method rtn instead of auto",
                ),
            ),
            None => ("auto", None),
        };
        Ok((method_named(name)?, note.map(str::to_owned).into_iter().collect()))
    }

    /// Returns the number of self-generated contexts. Adds a note if the model does not fit in memory and the number is
    /// 0 for this reason.
    fn self_generated(
        &self,
        method: &dyn Solver,
        calibration: Option<&Calibration>,
        notes: &mut Vec<String>,
    ) -> Result<usize, Error> {
        let (Need::Hessian, Some(calibration)) = (method.need(), calibration) else {
            return match self.self_generated_tokens {
                Some(n) if n > 0 => Err(unused("--own-tokens", method)),
                _ => Ok(0),
            };
        };
        if calibration.length() <= SELF_GENERATED_START {
            return Ok(0);
        }
        let spec = self.model.weights().spec();
        if spec.head().is_none() || spec.text_vector.is_some() {
            return match self.self_generated_tokens {
                Some(n) if n > 0 => Err(Error::option("--own-tokens", "a model for vectors writes no text")),
                _ => Ok(0),
            };
        }
        if let Some(tokens) = self.self_generated_tokens {
            return Ok(tokens.div_ceil(calibration.length()));
        }
        let bytes = |e: &Entry| e.format.tensor_bytes(&e.shape).unwrap_or(0) as u64;
        let model_bytes: u64 = self.model.weights().entries().iter().map(bytes).sum();
        if machine_memory_bytes().is_some_and(|memory| model_bytes as f64 > MAX_MEMORY_SHARE * memory as f64)
        {
            notes.push(
                "the model does not fit in this machine's memory, so it wrote no text of its own to be calibrated on; \
                 --own-tokens asks for it"
                    .to_owned(),
            );
            return Ok(0);
        }
        Ok((calibration.contexts().len() / 2).min(MAX_SELF_GENERATED_CONTEXTS))
    }

    /// Returns the settings of the method. A damping option is an error if the method chooses damping itself or does
    /// not use damping.
    fn settings(&self, method: &dyn Solver) -> Result<Settings, Error> {
        for (option, given) in
            [("--damping", self.damping), ("--correction-damping", self.correction_damping)]
        {
            let Some(x) = given else { continue };
            if method.chooses() {
                return Err(Error::option(option, format!("the method {} chooses it itself", method.name())));
            }
            if method.need() != Need::Hessian {
                return Err(unused(option, method));
            }
            if !(x.is_finite() && x >= 0.0) {
                return Err(Error::option(format!("{option} {x}"), "expected a finite number of at least 0"));
            }
        }
        let default = Settings::default();
        Ok(Settings {
            damping: self.damping.unwrap_or(default.damping),
            correction_damping: self.correction_damping.or(default.correction_damping),
            ..default
        })
    }
}

/// Returns the error for an option that the method does not use.
fn unused(option: &str, method: &dyn Solver) -> Error {
    Error::option(option, format!("the method {} has no use for it", method.name()))
}
