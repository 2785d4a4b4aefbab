"""Importance files as llama-imatrix writes them, of both kinds, and the figures they hold.

Writes into `importance/` beside this script:

  demo.gguf      what llama-imatrix gathers from kvant's demo model over TEXT
  experts.gguf   a matrix of three experts, one of them never used, and a plain one: random figures, written by
                 gguf-py, then read and written by llama-imatrix
  experts.dat    the same in the older kind
  figures.json   per file and tensor: columns, counts, the sum of the mean squares, the first and the last

The mean squares are f32 as upstream's quantizer computes them (sum divided by count, 1 where the count is zero);
their sums are f64.

    pip install gguf==0.19.0 numpy
    python importance.py --llama-bin DIR --kvant PROGRAM
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import gguf
import numpy

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "importance"
TEXT = "Once upon a time there was a quick fox called Pip. He went to the market with a huge basket.\n" * 20
COLUMNS = 8


def run(command, folder):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def write_experts(path):
    draw = numpy.random.default_rng(5)
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["routed.txt", "süß.txt"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 16)
    for name, counts in [("blk.0.attn_q.weight", [64]), ("blk.0.ffn_up_exps.weight", [40, 0, 24])]:
        counts = numpy.array(counts, dtype=numpy.float32)[:, None]
        sums = draw.gamma(0.5, 2.0, (len(counts), COLUMNS)).astype(numpy.float32) * counts
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def figures(path):
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    result = {}
    for name in sorted(key.removesuffix(".counts") for key in tensors if key.endswith(".counts")):
        counts = tensors[f"{name}.counts"].reshape(-1, 1)
        sums = tensors[f"{name}.in_sum2"].reshape(len(counts), -1)
        means = numpy.where(counts > 0, sums / numpy.maximum(counts, 1), numpy.float32(1))
        assert means.dtype == numpy.float32
        result[name] = {
            "columns": sums.shape[1], "counts": counts.ravel().tolist(),
            "sum": float(means.astype(numpy.float64).sum()),
            "first": float(means[0, 0]), "last": float(means[-1, -1]),
        }
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bin", type=pathlib.Path, required=True)
    parser.add_argument("--kvant", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    tool = arguments.llama_bin.resolve() / "llama-imatrix"
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # Run inside the folder, because the text's path as given goes into the file.
        scratch = pathlib.Path(scratch)
        run([arguments.kvant.resolve(), "convert", "demo", "-o", "model.gguf"], scratch)
        (scratch / "fox.txt").write_text(TEXT)
        run([tool, "-m", "model.gguf", "-f", "fox.txt", "-o", OUT / "demo.gguf", "-c", 128, "--chunks", 2, "--no-ppl",
             "-t", 1], scratch)
        write_experts(scratch / "hand.gguf")
        for kind in ("gguf", "dat"):
            run([tool, "--in-file", "hand.gguf", "-o", OUT / f"experts.{kind}", "--output-format", kind, "-c", 16,
                 "-m", "model.gguf"], scratch)
    rows = []
    for name in ("demo.gguf", "experts.gguf"):
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in figures(OUT / name).items())
        rows.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    (OUT / "figures.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
