//! What can go wrong between a checkpoint and a smaller one.

use std::path::PathBuf;

/// A fault of quantizing, with its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error(transparent)]
    Io(#[from] kvant_io::Error),
    /// The network.
    #[error(transparent)]
    Model(#[from] kvant_model::Error),
    /// A shape that the chosen format cannot hold.
    #[error("tensor {tensor}: {source}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        source: kvant_core::Error,
    },
    /// A weight that is no number.
    #[error("{path}: tensor {tensor}, element {element}: {value} is not finite; the input is damaged")]
    NotFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the element, row-major.
        element: usize,
        /// What stands there.
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
        /// Its value before.
        value: f32,
        /// The format asked for.
        format: &'static str,
    },
    /// The input holds quantized tensors already.
    #[error(
        "{path}: tensor {tensor} is already quantized ({format}); quantizing it again loses more than starting from \
         the original. Use the 16-bit original, or --allow-requantize"
    )]
    AlreadyQuantized {
        /// The checkpoint.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// Its format.
        format: &'static str,
    },
    /// What was read back differs from what was written.
    #[error("{path}: tensor {tensor} reads back differently from what was written; is the disk sound?")]
    ReadBack {
        /// The output.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The written network gives no finite logits.
    #[error("{path}: a forward pass on the written file gives {value} at logit {token}")]
    ForwardPass {
        /// The output.
        path: PathBuf,
        /// Which logit.
        token: usize,
        /// What it was.
        value: f32,
    },
    /// The work folder.
    #[error("{path}: {source}")]
    Work {
        /// The file in it.
        path: PathBuf,
        /// What the file system says.
        source: std::io::Error,
    },
    /// Another process works there.
    #[error("{path}: another run is at work there; wait for it, or name another folder with --work")]
    WorkInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A work folder of another input, recipe or text.
    #[error(
        "{path}: holds the unfinished work of another recipe or input; --fresh starts over, --work names another \
         folder"
    )]
    WorkOfAnother {
        /// The folder.
        path: PathBuf,
    },
    /// A work folder that is none.
    #[error("{path}: cannot be the work folder: {reason}; name another with --work")]
    WorkFolder {
        /// What was named.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Saved work that no key tells the run of.
    #[error(
        "{path}: holds unfinished work without the file `key`, which says of which run; nothing was deleted; --fresh \
         starts over, --work names another folder"
    )]
    WorkWithoutKey {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the work folder that is not what was saved.
    #[error("{path}: is damaged, or was changed after it was saved: {remedy}")]
    WorkDamaged {
        /// The file.
        path: PathBuf,
        /// What was kept, and how to go on.
        remedy: &'static str,
    },
    /// Calibration text of less than one context.
    #[error("no calibration text has a whole context of {context} tokens ({found} tokens in all)")]
    ShortCalibration {
        /// Tokens found.
        found: usize,
        /// Tokens a context.
        context: usize,
    },
    /// Fewer bytes than the smallest formats take.
    #[error("{path}: {budget} bytes of tensors are too few; the smallest formats take {needed}")]
    Budget {
        /// The checkpoint.
        path: PathBuf,
        /// Bytes allowed.
        budget: u64,
        /// Bytes that the smallest formats take.
        needed: u64,
    },
    /// Contexts in which there is nothing to compare.
    #[error("contexts of {found} tokens are too short to measure what formats cost; 3 are the least")]
    ShortContexts {
        /// Tokens of a context.
        found: usize,
    },
    /// A method that needs text, and none was given.
    #[error("method {method} needs calibration text: --calib FILE or --calib builtin")]
    NoCalibration {
        /// The method.
        method: &'static str,
    },
    /// Importance data that cannot be used.
    #[error(transparent)]
    Importance(#[from] ImportanceFault),
    /// An importance file that cannot be used, or data that would make one.
    #[error("{path}: {source}")]
    ImportanceFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ImportanceFault,
    },
    /// Stopped by the user; nothing was written.
    #[error("interrupted; no output was written")]
    Interrupted,
}

/// What is wrong with importance data, wherever they come from.
#[derive(Debug, thiserror::Error)]
pub enum ImportanceFault {
    /// No tensor at all.
    #[error("holds no importance entry")]
    Empty,
    /// A sum of squares that is none.
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
        /// What stands there.
        value: f32,
    },
    /// A count that counts nothing.
    #[error(
        "importance of tensor {tensor:?}: count {index} is {value}, expected a finite number of at least 0"
    )]
    Count {
        /// The tensor.
        tensor: String,
        /// Which of its counts.
        index: usize,
        /// What stands there.
        value: f32,
    },
    /// Sums that cannot be dealt out to the counts.
    #[error("importance of tensor {tensor:?}: {sums} sums cannot be shared out evenly to {counts} counts")]
    Lengths {
        /// The tensor.
        tensor: String,
        /// How many sums there are.
        sums: usize,
        /// How many counts.
        counts: usize,
    },
    /// A tensor of another size.
    #[error(
        "importance of tensor {tensor:?} has {found} values, but the tensor has {columns} columns and {experts} \
         experts; was it gathered from another model?"
    )]
    Columns {
        /// The tensor.
        tensor: String,
        /// Its columns.
        columns: usize,
        /// Its experts, 1 for a plain matrix.
        experts: usize,
        /// How many sums there are.
        found: usize,
    },
    /// Sums without counts, or counts without sums.
    #[error("importance of tensor {tensor:?}: there is no tensor of that name and {missing:?}")]
    Half {
        /// The tensor of the network.
        tensor: String,
        /// What its missing tensor ends in.
        missing: &'static str,
    },
    /// Sums or counts that are not stored as plain numbers.
    #[error("tensor {tensor:?} has format {found}, expected f32")]
    Format {
        /// The tensor in the importance file.
        tensor: String,
        /// Its format.
        found: &'static str,
    },
    /// A name that upstream could not read back.
    #[error("importance of tensor {tensor:?}: the name takes {bytes} bytes, llama.cpp reads at most {max}")]
    LongName {
        /// The tensor.
        tensor: String,
        /// Bytes of its name.
        bytes: usize,
        /// Bytes that it may have.
        max: usize,
    },
    /// More than the older kind of file can say.
    #[error("{what} is {found}, more than the older kind of file can say; write a .gguf")]
    Large {
        /// What the number says.
        what: &'static str,
        /// How large it is.
        found: usize,
    },
    /// A number in the older kind of file that cannot be.
    #[error("{what} at offset {offset} is {found}, expected at least {least}; is it an importance file?")]
    Number {
        /// What the number says.
        what: &'static str,
        /// Its place.
        offset: u64,
        /// What stands there.
        found: i32,
        /// The least it may be.
        least: u32,
    },
}
