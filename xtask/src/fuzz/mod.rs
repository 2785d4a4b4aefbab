//! `cargo xtask fuzz`: feeds hostile input for a limited time, or a limited number of inputs.
//!
//! If a nightly toolchain and `cargo fuzz` are installed, `cargo fuzz` runs the targets, guided by coverage (`fuzz/`).
//! Otherwise a loop of seeded mutations feeds the targets: it starts from a good file, changes up to eight places, and
//! checks that the reader does not panic, is not slow and does not use much memory. An input that finds a fault is kept
//! in `target/fuzz`. It belongs into `tests/corpus/regression`. Every run feeds these inputs before the mutations.

mod targets;

use clap::Args;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use targets::{TARGETS, Target};

/// Flags of `cargo xtask fuzz`.
#[derive(Args)]
pub struct Fuzz {
    /// Seconds for all targets together
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// So many inputs a target instead
    #[arg(long, value_name = "N")]
    inputs: Option<usize>,
    /// One target only
    #[arg(long)]
    target: Option<String>,
    /// Where the mutations begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The loop of mutations even where `cargo fuzz` is at hand
    #[arg(long)]
    plain: bool,
}

/// Maximum time of one input.
const SLOW: Duration = Duration::from_secs(2);
/// Maximum resident memory of the whole run.
const MOST_RESIDENT_BYTES: u64 = 1 << 30;

/// Runs every target. Returns the faults as texts.
pub fn run(root: &Path, arguments: &Fuzz) -> Vec<String> {
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|t| arguments.target.as_ref().is_none_or(|name| name == t.name)).collect();
    if chosen.is_empty() {
        let known: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
        return vec![format!("there is no such target; there are {}", known.join(", "))];
    }
    let share = Duration::from_secs(arguments.seconds) / chosen.len() as u32;
    let guided = !arguments.plain && has_cargo_fuzz(root);
    let mut faults = Vec::new();
    for target in chosen {
        if guided {
            faults.extend(by_coverage(root, target, share, arguments.inputs));
        } else {
            faults.extend(by_mutation(root, target, share, arguments));
        }
    }
    faults
}

fn has_cargo_fuzz(root: &Path) -> bool {
    let output = Command::new("cargo").args(["+nightly", "fuzz", "--version"]).current_dir(root).output();
    output.is_ok_and(|o| o.status.success())
}

fn by_coverage(root: &Path, target: &Target, share: Duration, inputs: Option<usize>) -> Option<String> {
    let until = inputs.map_or_else(
        || format!("-max_total_time={}", share.as_secs().max(1)),
        |inputs| format!("-runs={inputs}"),
    );
    let status = Command::new("cargo")
        .args(["+nightly", "fuzz", "run", target.name, "--"])
        .arg(until)
        .current_dir(root)
        .status();
    (!status.is_ok_and(|s| s.success())).then(|| format!("{}: cargo fuzz found a fault", target.name))
}

fn by_mutation(root: &Path, target: &Target, share: Duration, arguments: &Fuzz) -> Vec<String> {
    let scratch = root.join("target/fuzz");
    let folder = scratch.join("work").join(target.name);
    let mut faults = Vec::new();
    if let Err(error) = std::fs::create_dir_all(&folder) {
        return vec![format!("{}: {error}", folder.display())];
    }
    let seeds: Vec<Vec<u8>> =
        target.seeds.iter().filter_map(|name| std::fs::read(root.join(name)).ok()).collect();
    if seeds.len() != target.seeds.len() {
        return vec![format!("{}: a seed file is missing", target.name)];
    }
    let known = std::fs::read_dir(root.join("tests/corpus/regression").join(target.name));
    let known = known.into_iter().flatten().flatten().filter_map(|entry| std::fs::read(entry.path()).ok());
    let mut random = Random(arguments.seed);
    let mutated = (0..).map(|_| mutate(&seeds[random.below(seeds.len())], &mut random));
    let (begin, mut inputs) = (Instant::now(), 0usize);
    for bytes in seeds.iter().cloned().chain(known).chain(mutated) {
        let enough = arguments.inputs.map_or_else(|| begin.elapsed() >= share, |most| inputs >= most);
        if enough || faults.len() >= 5 {
            break;
        }
        let start = Instant::now();
        let fed = catch_unwind(AssertUnwindSafe(|| (target.feed)(&folder, &bytes)));
        let fault = match fed {
            Err(_) => Some("panics"),
            Ok(()) if start.elapsed() > SLOW => Some("takes long"),
            Ok(()) if kvant::eval::peak_resident_bytes() > MOST_RESIDENT_BYTES => Some("takes much memory"),
            Ok(()) => None,
        };
        if let Some(fault) = fault {
            let kept = scratch.join(format!("{}-{inputs}.bin", target.name));
            let _ = std::fs::write(&kept, &bytes);
            faults.push(format!("{}: input {inputs} {fault}; kept as {}", target.name, kept.display()));
        }
        inputs += 1;
    }
    println!(
        "{}: {inputs} inputs in {:.1} s, {} faults",
        target.name,
        begin.elapsed().as_secs_f64(),
        faults.len()
    );
    faults
}

/// The random generator SplitMix64. It gives the same mutations on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Numbers that often cause faults in readers.
const EDGES: [u64; 10] =
    [0, 1, 31, 255, 65_536, i32::MAX as u64, u32::MAX as u64, 1 << 40, i64::MAX as u64, u64::MAX];

/// Returns a copy of `seed` with up to eight changes. Most changes are near the beginning, because headers are there.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(8) {
        if bytes.is_empty() {
            break;
        }
        let reach =
            if random.below(4) > 0 { bytes.len().min(1 << (6 + random.below(8))) } else { bytes.len() };
        let at = random.below(reach);
        let length = (1 + random.below(32)).min(bytes.len() - at);
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let copy = bytes[at..at + length].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
            5 => {
                let from = random.below(bytes.len() - length + 1);
                bytes.copy_within(from..from + length, at);
            }
            _ if random.below(4) == 0 => bytes.truncate(at),
            _ => {
                let digits = EDGES[random.below(EDGES.len())].to_string();
                bytes.splice(at..at, digits.into_bytes());
            }
        }
    }
    bytes
}
