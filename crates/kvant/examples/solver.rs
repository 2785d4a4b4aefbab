//! A custom solver on one tensor. It rounds each block with several scales and keeps the best one.
//! `cargo run --release -p kvant --example solver`.

use kvant::core::{Bytes, Codes, FormatRef, Shape, Tensor, format};
use kvant::kernels::{Backend, Isa};
use kvant::quant::{Error, Layer, Need, RoundToNearest, Solved, Solver};

/// Searches the scale of each block, for formats with one scale per block.
struct ScaleSearch;

impl Solver for ScaleSearch {
    fn name(&self) -> &'static str {
        "scale-search"
    }

    fn need(&self) -> Need {
        Need::Nothing
    }

    fn solve(&self, layer: &Layer, format: FormatRef) -> Result<Solved, Error> {
        let mut solved = RoundToNearest.solve(layer, format)?;
        let Some(grid) = format.grid() else { return Ok(solved) };
        let (block, x) = (format.block(), layer.weight.decode());
        let mut bytes = solved.tensor.bytes().to_vec();
        let (mut codes, levels) = (Codes::new(block), grid.levels());
        solved.squared_error = 0.0;
        for (x, bytes) in x.chunks_exact(block.elements).zip(bytes.chunks_exact_mut(block.bytes)) {
            grid.unpack(bytes, &mut codes);
            let error = |codes: &Codes| -> f32 {
                x.iter().enumerate().map(|(i, x)| (codes.value(&levels, i) - x).powi(2)).sum()
            };
            let mut best = (error(&codes), codes.clone());
            for step in 85..=110 {
                let mut tried = codes.clone();
                tried.d = grid.stored(codes.d * step as f32 / 100.0);
                for (i, x) in x.iter().enumerate() {
                    grid.round(&mut tried, i, *x);
                }
                if error(&tried) < best.0 {
                    best = (error(&tried), tried);
                }
            }
            grid.pack(&best.1, bytes);
            solved.squared_error += f64::from(best.0);
        }
        solved.tensor =
            Tensor::new(*solved.tensor.shape(), format, Bytes::from(bytes)).expect("the same shape");
        Ok(solved)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let values: Vec<f32> =
        (0..64 * 256).map(|i| ((i * 7919 % 10_007) as f32 / 5003.0 - 1.0).powi(3)).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let weight = Tensor::new(Shape::new(&[64, 256])?, &format::F32, Bytes::from(bytes))?;
    let backend = Backend::new(Isa::best(), 1);
    let format = format::by_name("q4_0").ok_or("no such format")?;
    for solver in [&RoundToNearest as &dyn Solver, &ScaleSearch] {
        let solved = solver.solve(&Layer::uncalibrated("map.weight", &weight, &backend), format)?;
        println!("{:>14}: squared error {:.3}", solver.name(), solved.squared_error);
    }
    Ok(())
}
