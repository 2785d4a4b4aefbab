"""Perplexities and KL divergences that llama-perplexity measures on SmolLM2.

Writes `perplexity.json` beside this script. All over the first CHUNKS contexts of 512 tokens of
WikiText-2's raw test text. `perplexity` is of the published files; `divergence` compares
quantized files (made by quantize.py) with the f16 file's logits: `expanded` files hold the
quantized values in f16, so that only the weights' error counts; the `direct` ones add upstream's
rounding of activations to 8 bits.

    python perplexity.py --llama-bin DIR --models DIR --quantized DIR --shared DIR [--threads 2]
"""

import argparse
import hashlib
import json
import pathlib
import re
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TEXT = "data/text/wikitext2/wiki.test.raw"
CONTEXT, CHUNKS = 512, 8
REFERENCE = "smollm2-135m-f16.gguf"
INSTRUCT = "smollm2-135m-instruct-q4_1.gguf"
DIVERGENCES = {
    "q4_0 expanded": "smollm2-q4_0-f16.gguf",
    "q4_k_m expanded": "smollm2-q4_k_m-f16.gguf",
    "q8_0 expanded": "smollm2-q8_0-f16.gguf",
    "q4_0 direct": "smollm2-q4_0.gguf",
    "q4_k_m direct": "smollm2-q4_k_m.gguf",
    "q8_0 direct": "smollm2-q8_0.gguf",
}
# The labels under which llama-perplexity prints its summary.
FIGURES = {
    "mean_kld": r"Mean\s+KLD:\s+(\S+)",
    "mean_kld_error": r"Mean\s+KLD:\s+\S+\s+±\s+(\S+)",
    "median_kld": r"Median\s+KLD:\s+(\S+)",
    "kld_99": r"99\.0%\s+KLD:\s+(\S+)",
    "maximum_kld": r"Maximum\s+KLD:\s+(\S+)",
    "perplexity": r"Mean PPL\(Q\)\s*:\s+(\S+)",
    "perplexity_ratio": r"Mean PPL\(Q\)/PPL\(base\)\s*:\s+(\S+)",
    "rms_probability_change_percent": r"RMS Δp\s*:\s+(\S+)",
    "same_top_percent": r"Same top p\s*:\s+(\S+)",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--llama-bin", "--models", "--quantized", "--shared"):
        parser.add_argument(flag, type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    text = arguments.shared / TEXT

    def measure(model, *flags):
        command = [
            arguments.llama_bin / "llama-perplexity", "-m", model, "-f", text, "-c", CONTEXT, "--chunks", CHUNKS,
            "-t", arguments.threads, *flags,
        ]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-3000:])
        return done.stdout + done.stderr

    def final_estimate(output):
        value, error = re.search(r"Final estimate: PPL = (\S+) \+/- (\S+)", output).groups()
        return {"perplexity": float(value), "error": float(error)}

    result = {
        "text": TEXT, "text_sha256": hashlib.sha256(text.read_bytes()).hexdigest(),
        "context": CONTEXT, "chunks": CHUNKS, "perplexity": {}, "divergence": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        base = pathlib.Path(scratch) / "logits"
        result["perplexity"][REFERENCE] = final_estimate(
            measure(arguments.models / REFERENCE, "--kl-divergence-base", base))
        result["perplexity"][INSTRUCT] = final_estimate(measure(arguments.models / INSTRUCT))
        print(json.dumps(result["perplexity"]), flush=True)
        for name, file in DIVERGENCES.items():
            output = measure(arguments.quantized / file, "--kl-divergence-base", base, "--kl-divergence")
            result["divergence"][name] = {
                figure: float(re.search(pattern, output).group(1).rstrip("%")) for figure, pattern in FIGURES.items()
            }
            print(name, json.dumps(result["divergence"][name]), flush=True)
    (HERE / "perplexity.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
