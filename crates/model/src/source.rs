//! The sources of canonical tensors in a Hugging Face checkpoint, and the orders of rows and columns.

use crate::expert_rows;
use kvant_core::{Bytes, Shape, Tensor};

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
    pub(crate) fn is_computed(&self) -> bool {
        match self {
            Self::Affine { .. } | Self::NegativeExponential(_) => true,
            Self::Rows { of, .. } | Self::Columns { of, .. } => of.is_computed(),
            _ => false,
        }
    }

    /// The dimensions of the source's tensor with this index in [`Source::names`], for a canonical tensor of these
    /// dimensions.
    pub(crate) fn dimensions(&self, index: usize, canonical: &[usize]) -> Vec<usize> {
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

/// Transposes a matrix. The result has `shape`, and `tensor` is stored with the two dimensions exchanged.
pub(crate) fn transpose(tensor: &Tensor, shape: Shape) -> Result<Tensor, kvant_core::Error> {
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

/// Reorders the rows from `(head, half, pair)` to `(head, pair, half)`.
pub(crate) fn permute_heads(tensor: &Tensor, heads: usize) -> Result<Tensor, kvant_core::Error> {
    reorder_rows(tensor, |row, rows| {
        let (head_rows, half) = (rows / heads, rows / heads / 2);
        let (head, at) = (row / head_rows, row % head_rows);
        head * head_rows + (at % 2) * half + at / 2
    })
}

/// Reorders the rows from `(head, part, element)` to `(part, head, element)`, with three parts.
pub(crate) fn group_parts(tensor: &Tensor, heads: usize) -> Result<Tensor, kvant_core::Error> {
    reorder_rows(tensor, |row, rows| {
        let head_size = rows / heads / 3;
        let (part, head, element) = (row / (heads * head_size), row / head_size % heads, row % head_size);
        (head * 3 + part) * head_size + element
    })
}

/// Returns a tensor whose row `i` is row `from(i, rows)` of `tensor`, where `rows` is the number of rows. Each element of
/// a vector is a row.
pub(crate) fn reorder_rows(
    tensor: &Tensor,
    from: impl Fn(usize, usize) -> usize,
) -> Result<Tensor, kvant_core::Error> {
    let rows = rows_of(tensor.shape());
    select_rows(tensor, (0..rows).map(|row| from(row, rows)), *tensor.shape())
}

/// The number of rows, where each element of a vector is a row.
pub(crate) fn rows_of(shape: &Shape) -> usize {
    if let [length] = shape.dimensions() { *length } else { shape.rows() }
}

/// Returns some rows of a tensor, in this order, as a tensor of `shape`. Each element of a vector is a row.
pub(crate) fn select_rows(
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
pub(crate) fn select_columns(tensor: &Tensor, columns: &[usize]) -> Result<Tensor, kvant_core::Error> {
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
pub(crate) fn single_elements(tensor: &Tensor) -> Result<usize, kvant_core::Error> {
    let block = tensor.format().block();
    if block.elements > 1 {
        let format = tensor.format().name();
        return Err(kvant_core::Error::PartialBlock { columns: 1, block_elements: block.elements, format });
    }
    Ok(block.bytes)
}
