//! A checkpoint's tensors under canonical (GGUF) names and in GGUF layout, from a GGUF or a Hugging Face checkpoint.

use crate::arch::unsupported;
use crate::source::{Source, group_parts, permute_heads, select_columns, select_rows, transpose};
use crate::{ARCHITECTURES, Architecture, Error, Spec, expert_rows};
use kvant_core::{Bytes, FormatRef, Shape, Tensor, format};
use kvant_io::{Checkpoint, Meta};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The GGUF tensor that holds the factors of the rotary frequencies.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The GGUF tensor that holds the factors for sequences beyond the original context length.
pub(crate) const LONG_ROPE_FACTORS: &str = "rope_factors_long.weight";
/// The GGUF tensor that holds the factors for sequences within the original context length.
pub(crate) const SHORT_ROPE_FACTORS: &str = "rope_factors_short.weight";

/// Name, shape and format of a canonical tensor, without its bytes.
#[derive(Clone, Debug)]
pub struct Entry {
    /// GGUF name.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Shape,
    /// Storage format in the checkpoint.
    pub format: FormatRef,
    source: Source,
}

/// Returns the number of experts of a tensor with this shape: 1 for a vector and for a single matrix.
pub fn experts(shape: &Shape) -> usize {
    shape.dimensions().iter().rev().skip(2).product()
}

impl Entry {
    /// The number of experts whose maps the tensor holds; 1 for all other tensors.
    pub fn experts(&self) -> usize {
        experts(&self.shape)
    }

    /// True for norms, biases and other tensors that are not matrices.
    pub fn is_vector(&self) -> bool {
        self.shape.dimensions().len() == 1 || self.name.ends_with(".bias")
    }

    /// Returns true if a read copies the bytes, because the checkpoint has others or another order.
    pub fn is_copied(&self) -> bool {
        !matches!(self.source, Source::Plain(_) | Source::RowsFrom { .. })
    }
}

/// A checkpoint together with the description of its network.
pub struct Weights {
    checkpoint: Box<dyn Checkpoint>,
    architecture: &'static dyn Architecture,
    spec: Spec,
    entries: Vec<Entry>,
}

impl Weights {
    /// Reads the network's description and checks the tensors: all tensors of the network exist and have the right
    /// shape, and the checkpoint has no unknown tensors.
    ///
    /// # Errors
    /// An unknown architecture, an invalid setting, a missing or unknown tensor, or a tensor of a wrong shape.
    pub fn new(checkpoint: Box<dyn Checkpoint>) -> Result<Self, Error> {
        let path = checkpoint.path();
        let found = match checkpoint.meta() {
            Meta::Gguf(metadata) => metadata.get("general.architecture").and_then(|v| v.as_str()),
            Meta::HuggingFace(folder) => folder.config.get("model_type").and_then(|v| v.as_str()),
        };
        let Some(found) = found else {
            let key = match checkpoint.meta() {
                Meta::Gguf(_) => "general.architecture",
                Meta::HuggingFace(_) => "config.json: model_type",
            };
            return Err(Error::Setting {
                path: path.to_owned(),
                key: key.into(),
                expected: "the architecture's name".into(),
                found: "nothing".into(),
            });
        };
        let names = |architecture: &'static dyn Architecture| match checkpoint.meta() {
            Meta::Gguf(_) => vec![architecture.name()],
            Meta::HuggingFace(_) => architecture.model_types().to_vec(),
        };
        let reads = |a: &&'static dyn Architecture| names(*a).contains(&found) && a.reads(&*checkpoint);
        let architecture = ARCHITECTURES.iter().copied().find(reads);
        let architecture = architecture.ok_or_else(|| {
            if let Some(other) = unsupported(found) {
                let (path, found) = (path.to_owned(), found.to_owned());
                return Error::Unsupported { path, found, family: other.family, missing: other.missing };
            }
            let known: Vec<_> = ARCHITECTURES.iter().flat_map(|a| names(*a)).collect();
            let (path, found, known) = (path.to_owned(), found.to_owned(), known.join(", "));
            match checkpoint.meta() {
                Meta::HuggingFace(folder) if folder.config.get("vision_config").is_some() => {
                    Error::Vision { path, found, known }
                }
                _ => Error::Architecture { path, found, known },
            }
        })?;
        let spec = architecture.spec(&*checkpoint)?;
        let entries = entries(&*checkpoint, architecture, &spec)?;
        Ok(Self { checkpoint, architecture, spec, entries })
    }

    /// The network's description.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The network's family.
    pub fn architecture(&self) -> &'static dyn Architecture {
        self.architecture
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &dyn Checkpoint {
        &*self.checkpoint
    }

    /// The path of the checkpoint's file or folder.
    pub fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    /// All tensors of the network: in file order for a GGUF, else in order of computation.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns true if the network reads the bytes of this tensor of the checkpoint, not the numbers that they would be by
    /// the type in the file.
    pub(crate) fn reads_bytes(&self, name: &str) -> bool {
        let packed = |entry: &Entry| matches!(entry.source, Source::Mxfp4Rows { .. });
        self.entries
            .iter()
            .any(|entry| packed(entry) && entry.source.names().iter().any(|other| other == name))
    }

    /// Returns a tensor by its canonical name. It is copied only if its bytes have to be reordered.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], or an error of the checkpoint.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let entry = self.entries.iter().find(|e| e.name == name).ok_or_else(|| Error::MissingTensor {
            path: self.path().to_owned(),
            tensor: name.to_owned(),
            architecture: self.spec.architecture,
        })?;
        self.read(&entry.source, entry.shape.dimensions(), entry.format)
    }

    /// Reads a source as a tensor of these dimensions.
    fn read(&self, source: &Source, dimensions: &[usize], format: FormatRef) -> Result<Tensor, Error> {
        let error = |source| Error::Shape { path: self.path().to_owned(), source };
        let shape = Shape::new(dimensions).map_err(error)?;
        // A file may store a vector as a matrix of one row or one column.
        let shaped = |name: &str| {
            let tensor = self.checkpoint.tensor(name)?;
            Tensor::new(shape, tensor.format(), tensor.bytes().clone()).map_err(error)
        };
        let computed = |numbers: &mut dyn Iterator<Item = f32>| {
            let bytes: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
            Tensor::new(shape, &format::F32, Bytes::from(bytes)).map_err(error)
        };
        match source {
            Source::Plain(name) => shaped(name),
            Source::PermuteHeads { name, heads } => permute_heads(&shaped(name)?, *heads).map_err(error),
            Source::GroupParts { name, heads } => group_parts(&shaped(name)?, *heads).map_err(error),
            Source::RowsFrom { name, skip } => {
                let tensor = self.checkpoint.tensor(name)?;
                let bytes = tensor.bytes().slice(skip * tensor.row_bytes()..tensor.bytes().len());
                Tensor::new(shape, tensor.format(), bytes.expect("rows of the tensor")).map_err(error)
            }
            Source::Stack(names) => {
                let mut bytes = Vec::with_capacity(format.tensor_bytes(&shape).map_err(error)?);
                for name in names {
                    bytes.extend_from_slice(self.checkpoint.tensor(name)?.bytes());
                }
                Tensor::new(shape, format, Bytes::from(bytes)).map_err(error)
            }
            Source::Affine { name, add, factor } => {
                let numbers = self.checkpoint.tensor(name)?.decode();
                computed(&mut numbers.iter().map(|x| (x + add) * factor))
            }
            Source::NegativeExponential(name) => {
                let numbers = self.checkpoint.tensor(name)?.decode();
                computed(&mut numbers.iter().map(|x| -x.exp()))
            }
            Source::ExpertRows { name, transposed, start, step } => {
                let tensor = self.checkpoint.tensor(name)?;
                expert_rows::pick(&tensor, shape, *transposed, *start, *step).map_err(error)
            }
            Source::Mxfp4Rows { names, start, step } => {
                let bytes = |name: &String| {
                    self.checkpoint.stored_bytes(name).ok_or_else(|| Error::MissingTensor {
                        path: self.path().to_owned(),
                        tensor: name.to_owned(),
                        architecture: self.spec.architecture,
                    })
                };
                let [codes, scales] = [bytes(&names[0])?, bytes(&names[1])?];
                expert_rows::pick_mxfp4(&codes, &scales, shape, *start, *step).map_err(error)
            }
            Source::Rows { of, rows, .. } => {
                let of = self.read(of, &source.dimensions(0, dimensions), format)?;
                select_rows(&of, rows.iter().copied(), shape).map_err(error)
            }
            Source::Columns { of, columns } => {
                select_columns(&self.read(of, dimensions, format)?, columns).map_err(error)
            }
            Source::Transpose(name) => transpose(&self.checkpoint.tensor(name)?, shape).map_err(error),
            Source::RopeFactors(factors) => computed(&mut factors.iter().copied()),
        }
    }

    /// Returns a vector by its canonical name, decoded to `f32`.
    ///
    /// # Errors
    /// See [`Weights::tensor`].
    pub fn vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        Ok(self.tensor(name)?.decode())
    }
}

/// Lists the canonical tensors and checks each of them against the checkpoint.
fn entries(
    checkpoint: &dyn Checkpoint,
    architecture: &dyn Architecture,
    spec: &Spec,
) -> Result<Vec<Entry>, Error> {
    let path = || checkpoint.path().to_owned();
    let mut wanted: Vec<(String, Vec<usize>)> = Vec::new();
    for slot in spec.slots() {
        wanted.push((slot.weight(), slot.dimensions()));
        wanted.extend(slot.bias().map(|name| (name, slot.bias_dimensions())));
    }
    wanted.extend(spec.vectors().map(|v| (v.name.clone(), vec![v.length])));
    wanted.extend(spec.convolutions().map(|c| (c.name.clone(), c.dimensions())));

    let gguf = matches!(checkpoint.meta(), Meta::Gguf(_));
    let mut entries = Vec::with_capacity(wanted.len());
    for (name, dimensions) in wanted {
        let source = if gguf {
            Source::Plain(name.clone())
        } else {
            architecture.hugging_face_source(checkpoint, spec, &name)?
        };
        let mut format: Option<FormatRef> = None;
        for (index, stored) in source.names().iter().enumerate() {
            let dimensions_stored = source.dimensions(index, &dimensions);
            let info = checkpoint.info(stored).ok_or_else(|| Error::MissingTensor {
                path: path(),
                tensor: stored.to_owned(),
                architecture: spec.architecture,
            })?;
            if !same_shape(info.shape.dimensions(), &dimensions_stored) {
                return Err(Error::TensorShape {
                    path: path(),
                    tensor: info.name.clone(),
                    expected: format!("{dimensions_stored:?}"),
                    found: format!("{:?}", info.shape.dimensions()),
                });
            }
            let found = match &source {
                Source::Mxfp4Rows { .. } => (info.type_name() == "U8").then_some(&format::Mxfp4 as FormatRef),
                _ => info.format(),
            };
            let found = found.ok_or_else(|| kvant_io::Error::UnsupportedType {
                path: path(),
                tensor: info.name.clone(),
                type_name: info.type_name().to_owned().into(),
            })?;
            if let Some(first) = format.filter(|first| *first != found) {
                return Err(Error::TensorFormat {
                    path: path(),
                    tensor: info.name.clone(),
                    expected: first.name(),
                    found: found.name(),
                });
            }
            format = Some(found);
        }
        let format = match (&source, format) {
            (_, None) => &format::F32,
            (source, _) if source.is_computed() => &format::F32,
            (_, Some(format)) => format,
        };
        let shape_error = |source| Error::Shape { path: path(), source };
        let shape = Shape::new(&dimensions).map_err(shape_error)?;
        // A row of another length than the file's has another number of blocks.
        format.tensor_bytes(&shape).map_err(shape_error)?;
        entries.push(Entry { name, shape, format, source });
    }
    let scalings = spec.ropes().into_iter().map(|rope| rope.scaling.tensors());
    for (name, factors) in scalings.filter(|tensors| !tensors.is_empty()).take(1).flatten() {
        let shape = Shape::new(&[factors.len()]).map_err(|source| Error::Shape { path: path(), source })?;
        let name = name.to_owned();
        let source = if gguf { Source::Plain(name.clone()) } else { Source::RopeFactors(factors.to_vec()) };
        entries.push(Entry { name, shape, format: &format::F32, source });
    }
    let used: HashSet<&str> = entries.iter().flat_map(|e| e.source.names()).map(String::as_str).collect();
    for info in checkpoint.tensors() {
        let scales_of = info.name.strip_suffix(kvant_io::F8_SCALES);
        let known = used.contains(info.name.as_str()) || scales_of.is_some_and(|name| used.contains(name));
        if !known && !architecture.may_ignore(spec, &info.name) {
            return Err(Error::UnknownTensor {
                path: path(),
                tensor: info.name.clone(),
                architecture: spec.architecture,
            });
        }
    }
    if gguf {
        let order: HashMap<&str, usize> =
            checkpoint.tensors().iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        entries.sort_by_key(|e| order.get(e.name.as_str()).copied());
    }
    Ok(entries)
}

/// Returns true if two shapes are equal without their dimensions of size 1.
fn same_shape(found: &[usize], wanted: &[usize]) -> bool {
    let squeezed =
        |dimensions: &'_ [usize]| dimensions.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
    squeezed(found) == squeezed(wanted)
}
