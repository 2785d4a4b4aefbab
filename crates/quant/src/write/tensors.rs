//! Writes a file: solves or copies each tensor, writes the tensors, and reads the whole file back. All jobs write model
//! files with this module.
//!
//! Invariant: the output gets its name only after it was checked. Not covered here: solving tensors; see `solve`.

use super::report::{FileReport, TensorReport};
use super::validation::{Written, validate};
use crate::plan::{Assignment, planned};
use crate::solve::{Flag, Solved};
use crate::{Error, Progress};
use kvant_core::Tensor;
use kvant_io::{Metadata, Plan, Sink};
use kvant_kernels::Backend;
use kvant_model::Weights;
use std::path::Path;
use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle};

/// A function that returns the solved tensor for an assignment. It is called only for tensors that must be solved.
pub type Source<'a> = &'a mut dyn FnMut(&Assignment) -> Result<Solved, Error>;

/// Solves or copies each tensor, writes the file, reopens it and checks it.
///
/// # Errors
/// Errors of reading, solving, writing and checking; [`Error::Interrupted`]. On an error no output file is created.
#[allow(clippy::too_many_arguments)]
pub fn write(
    weights: &Weights,
    assignments: &[Assignment],
    metadata: Metadata,
    source: Source,
    output: &Path,
    force: bool,
    backend: &Backend,
    progress: &dyn Progress,
) -> Result<FileReport, Error> {
    let plan = Plan { metadata, tensors: planned(assignments) };
    let sink = kvant_io::create(output, &plan, force)?;
    let total: u64 = assignments.iter().map(input_bytes).sum();
    let (mut done, mut bytes_out, mut elements) = (0, 0, 0usize);
    let mut tensors = Vec::with_capacity(assignments.len());
    // One tensor is hashed and written while the next one is solved.
    let (mut sink, digests) = std::thread::scope(|scope| -> Result<_, Error> {
        let mut writer = Writer::new(scope, sink);
        for assignment in assignments {
            if progress.stop() {
                return Err(Error::Interrupted);
            }
            progress.at(done, total, &assignment.entry.name);
            let (tensor, report) = solve_or_copy(weights, assignment, source)?;
            if !writer.put(assignment.entry.name.clone(), tensor)? {
                break;
            }
            done += input_bytes(assignment);
            bytes_out += report.bytes;
            elements += assignment.entry.shape.elements();
            tensors.push(report);
        }
        writer.finish()
    })?;
    progress.at(total, total, "checking the written file");
    let expected = tensors.iter().zip(digests).map(|(report, digest)| Written { report, digest });
    let output_blake3 = validate(sink.seal()?, output, &expected.collect::<Vec<_>>(), backend)?;
    sink.finish()?;
    let bpw = bytes_out as f64 * 8.0 / elements.max(1) as f64;
    Ok(FileReport { bytes_in: total, bytes_out, bpw, tensors, output_blake3 })
}

/// A sink, and the hashes of the tensors that it has received.
type HashedSink = (Box<dyn Sink>, Vec<blake3::Hash>);

/// Hashes tensors and puts them into a sink, one after another.
enum Writer<'scope> {
    /// On a separate thread.
    Thread(mpsc::SyncSender<(String, Tensor)>, ScopedJoinHandle<'scope, Result<HashedSink, Error>>),
    /// On the calling thread, if the system cannot start another thread.
    Caller(HashedSink),
}

impl<'scope> Writer<'scope> {
    fn new<'env>(scope: &'scope Scope<'scope, 'env>, sink: Box<dyn Sink>) -> Self {
        let (send, receive) = mpsc::sync_channel::<(String, Tensor)>(0);
        // The thread receives the sink through a channel. So the sink is available here if the thread does not start.
        let (send_sink, receive_sink) = mpsc::channel();
        let work = move || {
            let mut sink: HashedSink =
                (receive_sink.recv().expect("the sink follows the thread's start"), Vec::new());
            receive.iter().try_for_each(|(name, tensor)| put_one(&mut sink, &name, &tensor))?;
            Ok(sink)
        };
        match thread::Builder::new().name("kvant-writer".to_owned()).spawn_scoped(scope, work) {
            Ok(thread) => match send_sink.send(sink) {
                Ok(()) => Self::Thread(send, thread),
                Err(mpsc::SendError(sink)) => Self::Caller((sink, Vec::new())),
            },
            Err(_) => Self::Caller((sink, Vec::new())),
        }
    }

    /// Writes a tensor. Returns false if the thread has failed; [`Writer::finish`] returns its error.
    fn put(&mut self, name: String, tensor: Tensor) -> Result<bool, Error> {
        match self {
            Self::Thread(send, _) => Ok(send.send((name, tensor)).is_ok()),
            Self::Caller(sink) => put_one(sink, &name, &tensor).map(|()| true),
        }
    }

    fn finish(self) -> Result<HashedSink, Error> {
        match self {
            Self::Thread(send, thread) => {
                drop(send);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            Self::Caller(sink) => Ok(sink),
        }
    }
}

fn put_one((sink, digests): &mut HashedSink, name: &str, tensor: &Tensor) -> Result<(), Error> {
    digests.push(kvant_io::hash(tensor.bytes()));
    Ok(sink.put(name, tensor)?)
}

fn input_bytes(assignment: &Assignment) -> u64 {
    assignment.entry.format.tensor_bytes(&assignment.entry.shape).map_or(0, |n| n as u64)
}

/// Solves or copies one tensor.
fn solve_or_copy(
    weights: &Weights,
    assignment: &Assignment,
    source: Source,
) -> Result<(Tensor, TensorReport), Error> {
    let Assignment { entry, format, fallback_from } = assignment;
    let tensor = weights.tensor(&entry.name)?;
    let mut flags = Vec::new();
    if fallback_from.is_some() {
        flags.push(Flag::Fallback);
    }
    let report = |bytes: usize, rel_rmse, flags, chosen| TensorReport {
        name: entry.name.clone(),
        from: entry.format.name(),
        format: format.name(),
        bytes: bytes as u64,
        rel_rmse,
        flags,
        chosen,
    };
    if !assignment.changes() {
        flags.push(Flag::Kept);
        return Ok((tensor.clone(), report(tensor.bytes().len(), 0.0, flags, None)));
    }
    let solved = source(assignment)?;
    flags.extend(&solved.flags);
    solved.check_finite(weights.path(), &entry.name)?;
    if solved.squared_sum == 0.0 {
        flags.push(Flag::Zero);
    }
    flags.extend(solved.loss_flag());
    let rel_rmse =
        if solved.squared_sum > 0.0 { (solved.squared_error / solved.squared_sum).sqrt() } else { 0.0 };
    Ok((solved.tensor.clone(), report(solved.tensor.bytes().len(), rel_rmse, flags, solved.chosen)))
}
