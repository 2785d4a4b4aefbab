//! Errors of quantization.

use std::path::PathBuf;

/// An error of quantization, with its location.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of a file.
    #[error(transparent)]
    Io(#[from] kvant_io::Error),
    /// An error of the network.
    #[error(transparent)]
    Model(#[from] kvant_model::Error),
    /// A shape that the chosen format cannot hold.
    #[error("tensor {tensor}: {source}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The cause.
        source: kvant_core::Error,
    },
    /// A format that kvant reads and does not write.
    #[error("tensor {tensor}: {format} is read only: kvant reads this format, but does not write it")]
    ReadOnly {
        /// The tensor.
        tensor: String,
        /// The requested format.
        format: &'static str,
    },
    /// A weight that is NaN or infinite.
    #[error("{path}: tensor {tensor}, element {element}: {value} is not finite; the input is damaged")]
    NotFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element, row-major.
        element: usize,
        /// The element's value.
        value: f32,
    },
    /// A value that the format's scales cannot hold.
    #[error(
        "{path}: tensor {tensor}, element {element}: {value:?} is beyond what {format} can store; use bf16, f32 or \
         --set for this tensor"
    )]
    Overflow {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element, row-major.
        element: usize,
        /// The element's value in the input.
        value: f32,
        /// The requested format.
        format: &'static str,
    },
    /// The input already holds quantized tensors.
    #[error(
        "{path}: tensor {tensor} is already quantized ({format}); quantizing it again loses more than starting from \
         the original. Use the 16-bit original, or --set PATTERN={format} to keep tensors as they are, or \
         --allow-requantize"
    )]
    AlreadyQuantized {
        /// The checkpoint.
        path: PathBuf,
        /// The first quantized tensor.
        tensor: String,
        /// The tensor's format.
        format: &'static str,
    },
    /// A tensor that differs after it was read back.
    #[error("{path}: tensor {tensor} reads back differently from what was written; check the disk")]
    ReadBack {
        /// The output.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A logit of the written network that is not finite.
    #[error("{path}: a forward pass on the written file gives {value} at logit {token}")]
    ForwardPass {
        /// The output.
        path: PathBuf,
        /// Index of the logit.
        token: usize,
        /// The element's value.
        value: f32,
    },
    /// An error of the file system in the work folder.
    #[error("{path}: {source}")]
    Work {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A work folder that another process uses.
    #[error("{path}: another run is at work there; wait for it, or name another folder with --work")]
    WorkInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A work folder that belongs to another input, recipe or calibration text.
    #[error(
        "{path}: holds the unfinished work of another recipe or input; --fresh starts over, --work names another \
         folder"
    )]
    WorkOfAnother {
        /// The folder.
        path: PathBuf,
    },
    /// A path that cannot be a work folder.
    #[error("{path}: cannot be the work folder: {reason}; name another with --work")]
    WorkFolder {
        /// The given path.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// Saved work without a key file, so that the run that saved the work is unknown.
    #[error(
        "{path}: holds unfinished work, but the file `key` that names its run is missing; nothing was deleted; --fresh \
         starts over, --work names another folder"
    )]
    WorkWithoutKey {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the work folder whose content is not the saved content.
    #[error("{path}: is damaged, or was changed after it was saved: {remedy}")]
    WorkDamaged {
        /// The file.
        path: PathBuf,
        /// A text that says that nothing was deleted, and how the user can continue.
        remedy: &'static str,
    },
    /// Calibration text that is shorter than one context.
    #[error("no calibration text is as long as one context of {context} tokens ({found} tokens in all)")]
    ShortCalibration {
        /// Number of tokens in all texts.
        found: usize,
        /// Tokens of a context.
        context: usize,
    },
    /// A budget that is too small even for the smallest formats.
    #[error(
        "{path}: the budget of {budget} bytes of tensors is too small; the smallest formats take {needed}"
    )]
    Budget {
        /// The checkpoint.
        path: PathBuf,
        /// Bytes of the budget.
        budget: u64,
        /// Bytes of tensor data that the smallest formats need.
        needed: u64,
    },
    /// Contexts that are too short: they have no position at which two networks can be compared.
    #[error("contexts of {found} tokens are too short to measure the loss of formats; at least 3 are needed")]
    ShortContexts {
        /// Tokens of a context.
        found: usize,
    },
    /// A run without calibration text, with a method that needs calibration text.
    #[error("method {method} needs calibration text: --calib FILE or --calib builtin")]
    NoCalibration {
        /// The method.
        method: &'static str,
    },
    /// Importance data that cannot be used.
    #[error(transparent)]
    Importance(#[from] ImportanceFault),
    /// An importance file that cannot be used, or data that cannot be written to an importance file.
    #[error("{path}: {source}")]
    ImportanceFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: ImportanceFault,
    },
    /// The user stopped the run; no output was written.
    #[error("interrupted; no output was written")]
    Interrupted,
}

/// An error of importance data, from a file or from memory.
#[derive(Debug, thiserror::Error)]
pub enum ImportanceFault {
    /// Importance data without any tensor.
    #[error("holds no importance entry")]
    Empty,
    /// A sum of squares that is negative or not finite.
    #[error(
        "importance of tensor {tensor:?}, expert {expert}, column {column}: {value} is no sum of squares, expected a \
         finite number of at least 0"
    )]
    Sum {
        /// The tensor.
        tensor: String,
        /// The expert, 0 for a plain matrix.
        expert: usize,
        /// The input column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A count that is negative or not finite.
    #[error(
        "importance of tensor {tensor:?}: count {index} is {value}, expected a finite number of at least 0"
    )]
    Count {
        /// The tensor.
        tensor: String,
        /// Index of the count.
        index: usize,
        /// The value.
        value: f32,
    },
    /// Sums whose number is not a multiple of the number of counts.
    #[error("importance of tensor {tensor:?}: {sums} sums are not a multiple of {counts} counts")]
    Lengths {
        /// The tensor.
        tensor: String,
        /// The number of sums.
        sums: usize,
        /// The number of counts.
        counts: usize,
    },
    /// Sums that do not fit the tensor's shape.
    #[error(
        "importance of tensor {tensor:?} has {found} values, but the tensor has {columns} columns and {experts} \
         experts; was it gathered from another model?"
    )]
    Columns {
        /// The tensor.
        tensor: String,
        /// The tensor's number of columns.
        columns: usize,
        /// The tensor's number of experts, 1 for a plain matrix.
        experts: usize,
        /// The number of sums.
        found: usize,
    },
    /// Sums without counts, or counts without sums.
    #[error("importance of tensor {tensor:?}: the file lacks the tensor {tensor}{missing}")]
    Half {
        /// The tensor of the network.
        tensor: String,
        /// The suffix of the missing tensor's name.
        missing: &'static str,
    },
    /// Sums or counts that are not stored as f32.
    #[error("tensor {tensor:?} has format {found}, expected f32")]
    Format {
        /// The tensor in the importance file.
        tensor: String,
        /// The tensor's format.
        found: &'static str,
    },
    /// A name that upstream cannot read.
    #[error("importance of tensor {tensor:?}: the name takes {bytes} bytes, llama.cpp reads at most {max}")]
    LongName {
        /// The tensor.
        tensor: String,
        /// Length of the tensor's name, in bytes.
        bytes: usize,
        /// The largest allowed length of a name, in bytes.
        max: usize,
    },
    /// A value that is too large for the older file format.
    #[error("{what} is {found}, more than the legacy .dat format can store; write a .gguf")]
    Large {
        /// Meaning of the value.
        what: &'static str,
        /// The value.
        found: usize,
    },
    /// An integer in the older file format that is too small.
    #[error("{what} at offset {offset} is {found}, expected at least {least}; is it an importance file?")]
    Number {
        /// Meaning of the value.
        what: &'static str,
        /// Offset of the value in the file, in bytes.
        offset: u64,
        /// The value.
        found: i32,
        /// The smallest allowed value.
        least: u32,
    },
}
