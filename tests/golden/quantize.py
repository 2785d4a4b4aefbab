"""What llama-quantize makes of SmolLM2: the type that each mix gives each tensor, and the bytes.

Writes `quantize/smollm2.json` beside this script:

  tensors   [name, [columns, rows]] of every tensor in the order of the f16 file
  files     per mix: the general.file_type, the sum of tensor bytes, `types` (one a tensor, in that
            order) and `sha256`: the first 16 hex digits of each tensor's bytes' SHA-256, "" where
            the tensor is not quantized

No importance matrix is used, so every byte follows from the f16 file alone. The files themselves
stay in --quantized as smollm2-<mix>.gguf; those in EXPAND also as smollm2-<mix>-f16.gguf, for
measuring without the rounding of activations that upstream's kernels add.

    pip install gguf==0.19.0 numpy
    python quantize.py --llama-bin DIR --models DIR --quantized DIR
"""

import argparse
import hashlib
import json
import pathlib
import subprocess

import gguf

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "quantize"
MODEL = "smollm2-135m-f16.gguf"
MIXES = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs"]
PURE = ["q4_0", "q4_k", "q5_k", "q6_k", "iq4_xs"]
EXPAND = ["q4_0", "q4_k_m", "q8_0"]


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def describe(path):
    reader = gguf.GGUFReader(path)
    types, digests, total = {}, {}, 0
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name.lower()
        types[tensor.name] = kind
        total += int(tensor.n_bytes)
        digests[tensor.name] = "" if kind in ("f32", "f16") else hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16]
    return int(reader.fields["general.file_type"].contents()), types, digests, total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bin", type=pathlib.Path, required=True)
    parser.add_argument("--models", type=pathlib.Path, required=True, help=f"folder of {MODEL}")
    parser.add_argument("--quantized", type=pathlib.Path, required=True, help="where the quantized files go")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tool = arguments.llama_bin / "llama-quantize"
    source = arguments.models / MODEL
    arguments.quantized.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(exist_ok=True)

    tensors = [[tensor.name, [int(size) for size in tensor.shape]] for tensor in gguf.GGUFReader(source).tensors]
    names = [name for name, _ in tensors]
    files = {}
    for mix, flags in [(mix, []) for mix in MIXES] + [(f"{mix}-pure", ["--pure"]) for mix in PURE]:
        path = arguments.quantized / f"smollm2-{mix}.gguf"
        run([tool, *flags, source, path, mix.removesuffix("-pure").upper(), arguments.threads])
        file_type, types, digests, total = describe(path)
        files[mix] = {
            "file_type": file_type, "tensor_bytes": total,
            "types": [types[name] for name in names], "sha256": [digests[name] for name in names],
        }
        counts = {kind: files[mix]["types"].count(kind) for kind in sorted(set(files[mix]["types"]))}
        print(f"{mix:12} file_type {file_type:3} {total:10} bytes {counts}", flush=True)
    for mix in EXPAND:
        run([tool, "--allow-requantize", arguments.quantized / f"smollm2-{mix}.gguf",
             arguments.quantized / f"smollm2-{mix}-f16.gguf", "f16", arguments.threads])

    compact = {"separators": (",", ":")}
    rows = ",\n".join(f'  "{mix}":{json.dumps(entry, **compact)}' for mix, entry in files.items())
    (OUT / "smollm2.json").write_text(
        f'{{"source":"{MODEL}",\n "tensors":{json.dumps(tensors, **compact)},\n "files":{{\n{rows}\n }}}}\n')


if __name__ == "__main__":
    main()
