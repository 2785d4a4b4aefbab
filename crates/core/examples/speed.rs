//! How fast each format encodes and decodes on one thread, in millions of numbers a second; NaN for an operation that
//! the format does not have: `cargo run --release -p kvant-core --example speed [FORMAT]`.

use kvant_core::format::FORMATS;
use std::time::Instant;

const COLUMNS: usize = 2048;
const ROWS: usize = 256;

fn main() {
    let wanted = std::env::args().nth(1);
    let rows = gaussian(ROWS * COLUMNS);
    let importance: Vec<f32> = gaussian(COLUMNS).iter().map(|x| 0.01 + x.abs()).collect();
    println!("{:8} {:>10} {:>10} {:>10} {:>10}", "M/s", "encode", "importance", "decode", "fit+round");
    for format in FORMATS.iter().filter(|f| wanted.as_ref().is_none_or(|w| w == f.name())) {
        let block = format.block();
        let mut bytes = vec![0; rows.len() / block.elements * block.bytes];
        let mut values = vec![0.0; rows.len()];
        let [encode, weighted] = [None, Some(&importance[..])].map(|importance| match format.encoder() {
            Some(encoder) => rate(|| encoder.encode(&rows, importance, &mut bytes)),
            None => f64::NAN,
        });
        let decode = rate(|| format.decode(&bytes, &mut values));
        let rounded = format.grid().map(|grid| {
            let mut codes = kvant_core::Codes::new(block);
            rate(|| {
                for x in rows.chunks_exact(block.elements) {
                    grid.fit(x, None, kvant_core::Part::Block, &mut codes);
                    for (group, x) in x.chunks_exact(block.group).enumerate() {
                        grid.fit(x, None, kvant_core::Part::Group(group), &mut codes);
                        for (j, &x) in x.iter().enumerate() {
                            std::hint::black_box(grid.round(&mut codes, group * block.group + j, x));
                        }
                    }
                }
            })
        });
        println!(
            "{:8} {encode:10.1} {weighted:10.1} {decode:10.1} {:10.1}",
            format.name(),
            rounded.unwrap_or(f64::NAN)
        );
    }
}

/// The best of three runs: other work on the machine only slows one down.
fn rate(mut run: impl FnMut()) -> f64 {
    let seconds = (0..3).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    (ROWS * COLUMNS) as f64 / seconds.fold(f64::INFINITY, f64::min) / 1e6
}

/// Sums of twelve uniform numbers from a fixed linear congruential generator.
fn gaussian(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.02).collect()
}
