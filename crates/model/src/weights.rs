//! A checkpoint's tensors under canonical (GGUF) names and in GGUF layout, from a GGUF or a Hugging Face checkpoint.

use crate::arch::unsupported;
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

/// The source of a canonical tensor in a Hugging Face checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The tensor of this name, unchanged.
    Plain(String),
    /// The tensor of this name with the rows of each head reordered. In `transformers`, elements `i` and
    /// `i + head_size / 2` form a rotary pair; in GGUF's Llama, elements `2 i` and `2 i + 1` do.
    PermuteHeads {
        /// The tensor's name.
        name: String,
        /// The number of heads, each of `rows / heads` rows.
        heads: usize,
    },
    /// The matrix of this name, transposed: GPT-2's checkpoints store `in × out`.
    Transpose(String),
    /// The tensor of this name with its rows reordered from `(head, part, element)` to `(part, head, element)`. The parts
    /// are queries, keys and values.
    GroupParts {
        /// The tensor's name.
        name: String,
        /// The number of heads.
        heads: usize,
    },
    /// The matrix of this name without its first rows.
    RowsFrom {
        /// The tensor's name.
        name: String,
        /// The number of rows that are left out.
        skip: usize,
    },
    /// The matrices of these names, one for each expert, one after the other.
    Stack(Vec<String>),
    /// Some rows of the matrices of all experts, in one tensor: experts × rows × columns, or experts × columns × rows if
    /// `transposed` is true. Or some elements of the experts' biases: experts × rows.
    ExpertRows {
        /// The tensor's name.
        name: String,
        /// True if the matrices are transposed.
        transposed: bool,
        /// The index of each matrix's first row.
        start: usize,
        /// The distance of two rows.
        step: usize,
    },
    /// Some rows of the matrices of all experts in MXFP4, in two tensors of bytes: the codes, experts × rows × blocks ×
    /// 16, and the scales, experts × rows × blocks.
    Mxfp4Rows {
        /// The tensors' names.
        names: [String; 2],
        /// The index of each matrix's first row.
        start: usize,
        /// The distance of two rows.
        step: usize,
    },
    /// (x + `add`) · `factor` for each number x of the tensor of this name, in `f32`.
    Affine {
        /// The tensor's name.
        name: String,
        /// Added to each number.
        add: f32,
        /// Factor of each sum.
        factor: f32,
    },
    /// −eˣ for each number x of the tensor of this name, in `f32`.
    NegativeExponential(String),
    /// Rows of another source, in this order. Each element of a vector is a row.
    Rows {
        /// The other source.
        of: Box<Source>,
        /// Indices of its rows.
        rows: Vec<usize>,
        /// The dimensions of its rows, outermost first; their product is the number of rows.
        stored: Vec<usize>,
    },
    /// All columns of another source, in this order.
    Columns {
        /// The other source.
        of: Box<Source>,
        /// Indices of its columns.
        columns: Vec<usize>,
    },
    /// Not a tensor of the checkpoint: the factors of the rotary frequencies. A GGUF stores them; for a Hugging Face
    /// checkpoint they are computed from `config.json`.
    RopeFactors(Vec<f32>),
}

impl Source {
    /// The names of the source's tensors in the checkpoint.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Plain(name)
            | Self::PermuteHeads { name, .. }
            | Self::Transpose(name)
            | Self::GroupParts { name, .. }
            | Self::NegativeExponential(name)
            | Self::ExpertRows { name, .. }
            | Self::RowsFrom { name, .. }
            | Self::Affine { name, .. } => std::slice::from_ref(name),
            Self::Rows { of, .. } | Self::Columns { of, .. } => of.names(),
            Self::Stack(names) => names,
            Self::Mxfp4Rows { names, .. } => names,
            Self::RopeFactors(_) => &[],
        }
    }

    /// True if the result is in `f32`, also if the checkpoint has another format.
    fn is_computed(&self) -> bool {
        match self {
            Self::Affine { .. } | Self::NegativeExponential(_) => true,
            Self::Rows { of, .. } | Self::Columns { of, .. } => of.is_computed(),
            _ => false,
        }
    }

    /// The dimensions of the source's tensor with this index in [`Source::names`], for a canonical tensor of these
    /// dimensions.
    fn dimensions(&self, index: usize, canonical: &[usize]) -> Vec<usize> {
        match self {
            Self::Transpose(_) => canonical.iter().rev().copied().collect(),
            Self::Stack(_) => canonical[1..].to_vec(),
            Self::RowsFrom { skip, .. } => vec![canonical[0] + skip, canonical[1]],
            Self::ExpertRows { transposed, step, .. } => {
                expert_rows::dimensions(canonical, *transposed, *step)
            }
            Self::Mxfp4Rows { step, .. } => expert_rows::mxfp4_dimensions(canonical, *step)[index].clone(),
            Self::Rows { stored, .. } => {
                // Only the innermost dimension of a matrix is no dimension of rows.
                let columns = if canonical.len() > 1 { &canonical[canonical.len() - 1..] } else { &[] };
                [stored, columns].concat()
            }
            _ => canonical.to_vec(),
        }
    }
}

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
    let convolutions = spec.delta_nets().map(|net| &net.convolution);
    wanted.extend(convolutions.map(|c| (c.name.clone(), c.dimensions())));

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

/// Transposes a matrix. The result has `shape`, and `tensor` is stored with the two dimensions exchanged.
fn transpose(tensor: &Tensor, shape: Shape) -> Result<Tensor, kvant_core::Error> {
    let (columns, rows) = (shape.rows(), shape.columns());
    let block = single_elements(tensor)?;
    let mut bytes = Vec::with_capacity(tensor.bytes().len());
    for column in 0..columns {
        for row in 0..rows {
            bytes.extend_from_slice(&tensor.bytes()[(row * columns + column) * block..][..block]);
        }
    }
    Tensor::new(shape, tensor.format(), Bytes::from(bytes))
}

/// Returns true if two shapes are equal without their dimensions of size 1.
fn same_shape(found: &[usize], wanted: &[usize]) -> bool {
    let squeezed =
        |dimensions: &'_ [usize]| dimensions.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
    squeezed(found) == squeezed(wanted)
}

/// Reorders the rows from `(head, half, pair)` to `(head, pair, half)`.
fn permute_heads(tensor: &Tensor, heads: usize) -> Result<Tensor, kvant_core::Error> {
    reorder_rows(tensor, |row, rows| {
        let (head_rows, half) = (rows / heads, rows / heads / 2);
        let (head, at) = (row / head_rows, row % head_rows);
        head * head_rows + (at % 2) * half + at / 2
    })
}

/// Reorders the rows from `(head, part, element)` to `(part, head, element)`, with three parts.
fn group_parts(tensor: &Tensor, heads: usize) -> Result<Tensor, kvant_core::Error> {
    reorder_rows(tensor, |row, rows| {
        let head_size = rows / heads / 3;
        let (part, head, element) = (row / (heads * head_size), row / head_size % heads, row % head_size);
        (head * 3 + part) * head_size + element
    })
}

/// Returns a tensor whose row `i` is row `from(i, rows)` of `tensor`, where `rows` is the number of rows. Each element of
/// a vector is a row.
fn reorder_rows(tensor: &Tensor, from: impl Fn(usize, usize) -> usize) -> Result<Tensor, kvant_core::Error> {
    let rows = rows_of(tensor.shape());
    select_rows(tensor, (0..rows).map(|row| from(row, rows)), *tensor.shape())
}

/// The number of rows, where each element of a vector is a row.
fn rows_of(shape: &Shape) -> usize {
    if let [length] = shape.dimensions() { *length } else { shape.rows() }
}

/// Returns some rows of a tensor, in this order, as a tensor of `shape`. Each element of a vector is a row.
fn select_rows(
    tensor: &Tensor,
    rows: impl Iterator<Item = usize>,
    shape: Shape,
) -> Result<Tensor, kvant_core::Error> {
    let row_bytes = match tensor.shape().dimensions() {
        [_] => tensor.format().tensor_bytes(&Shape::new(&[1])?)?,
        _ => tensor.row_bytes(),
    };
    let mut bytes = Vec::with_capacity(tensor.format().tensor_bytes(&shape)?);
    for row in rows {
        bytes.extend_from_slice(&tensor.bytes()[row * row_bytes..(row + 1) * row_bytes]);
    }
    Tensor::new(shape, tensor.format(), Bytes::from(bytes))
}

/// Returns a matrix whose column `i` is column `columns[i]` of `tensor`.
fn select_columns(tensor: &Tensor, columns: &[usize]) -> Result<Tensor, kvant_core::Error> {
    let block = single_elements(tensor)?;
    let mut bytes = Vec::with_capacity(tensor.bytes().len());
    for row in tensor.bytes().chunks_exact(tensor.row_bytes()) {
        for column in columns {
            bytes.extend_from_slice(&row[column * block..][..block]);
        }
    }
    Tensor::new(*tensor.shape(), tensor.format(), Bytes::from(bytes))
}

/// Returns the bytes of an element, or an error if the format has blocks of several elements.
fn single_elements(tensor: &Tensor) -> Result<usize, kvant_core::Error> {
    let block = tensor.format().block();
    if block.elements > 1 {
        let format = tensor.format().name();
        return Err(kvant_core::Error::PartialBlock { columns: 1, block_elements: block.elements, format });
    }
    Ok(block.bytes)
}
