#!/usr/bin/env python3
"""Holds kvant's files against llama.cpp's of the same bytes and the same calibration text.

    python3 tools/peers.py --llama BUILD/bin --kvant target/release/kvant --model MODEL.gguf \\
        --calib TEXT --formats q4_k_m,iq4_xs,q4_0 --text wiki=wiki.txt:24 --text korean=ko.tsv:12 [--confirm]

For each format: llama-imatrix on at most 64 contexts of TEXT and llama-quantize with it; `kvant quantize` with the
method given; the KL divergence of both from MODEL, context by context on the same texts (NAME=FILE:CONTEXTS); then
the ratio of the means with a 95 % interval (bootstrap over contexts, pairs kept together) and the share of contexts
on which ours is lower. `--confirm` expands our file to f16 with llama-quantize and has llama-perplexity measure the
first text on it and on the file as it is. Files stay in the work folder, so that a run that was stopped goes on.
Needs nothing but Python 3 and a build of llama.cpp.
"""

import argparse
import json
import os
import random
import re
import subprocess
from pathlib import Path


def run(command, log=None, environment=None):
    print("+", " ".join(str(c) for c in command), flush=True)
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    if log:
        Path(log).write_text(done.stdout + done.stderr)
    if done.returncode not in (0,):
        raise SystemExit(f"{command[0]}: {done.stderr[-800:]}")
    return done.stdout + done.stderr if log else done.stdout


def tensor_bytes(kvant, file):
    tensors = json.loads(run([kvant, "inspect", file, "--json"]))["tensors"]
    return sum(t["bytes"] for t in tensors)


def paired(ours, theirs, draws=10_000):
    """Ratio of means and its 95 % interval, and the share of contexts on which ours is lower."""
    generator = random.Random(0)
    count = len(ours)
    ratios = []
    for _ in range(draws):
        drawn = generator.choices(range(count), k=count)
        ratios.append(sum(ours[i] for i in drawn) / sum(theirs[i] for i in drawn))
    ratios.sort()
    lower = sum(a < b for a, b in zip(ours, theirs)) / count
    return sum(ours) / sum(theirs), ratios[draws // 40], ratios[-draws // 40], lower


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--kvant", type=Path, default=Path("target/release/kvant"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calib", required=True, help="a text file, for both")
    parser.add_argument("--our-calib", help="what kvant calibrates on, where that differs (for example builtin)")
    parser.add_argument("--formats", default="q4_k_m,iq4_xs,q4_0")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--contexts", type=int, default=64, help="of the calibration text, for llama-imatrix; 0: all")
    parser.add_argument("--text", action="append", required=True)
    parser.add_argument("--work", type=Path, default=Path("peers"))
    parser.add_argument("--also", default="", help="other llama.cpp formats to measure alone, for example q5_k_s")
    parser.add_argument("--confirm", action="store_true")
    given, extra = parser.parse_known_args()
    given.work.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, LD_LIBRARY_PATH=str(given.llama))
    importance = given.work / "llama.imatrix"
    if not importance.exists():
        chunks = ["--chunks", given.contexts] if given.contexts else []
        run([given.llama / "llama-imatrix", "-m", given.model, "-f", given.calib, "-o", importance, "-c", 512,
             "--parse-special", *chunks], given.work / "imatrix.log", environment)
    texts = []
    for text in given.text:
        name, rest = text.split("=", 1)
        file, count = rest.rsplit(":", 1)
        texts.append((name, file, int(count)))

    def measure(file, tag):
        figures = {}
        for name, text, count in texts:
            kept = given.work / f"{tag}-{name}.json"
            if not kept.exists():
                kept.write_text(run([given.kvant, "eval", file, "--reference", given.model, "--text", text,
                                     "--chunks", count, "--json"]))
            figures[name] = json.loads(kept.read_text())["kld_by_context"]
        return figures

    def theirs(form):
        file = given.work / f"llama-{form}.gguf"
        if not file.exists():
            run([given.llama / "llama-quantize", "--imatrix", importance, given.model, file, form],
                given.work / f"llama-{form}.log", environment)
        return file, measure(file, f"llama-{form}")

    rows = []
    for form in given.formats.split(","):
        their_file, their_figures = theirs(form)
        file = given.work / f"kvant-{form}.gguf"
        if not file.exists():
            run([given.kvant, "quantize", given.model, "-o", file, "--format", form, "--method", given.method,
                 "--calib", given.our_calib or given.calib, "-v", *extra], given.work / f"kvant-{form}.log")
        figures = measure(file, f"kvant-{form}")
        a, b = tensor_bytes(given.kvant, file), tensor_bytes(given.kvant, their_file)
        for name, _, _ in texts:
            ours, other = figures[name], their_figures[name]
            ratio, low, high, lower = paired(ours, other)
            rows.append(f"| {form} | {name} | {a:,} | {100 * (a / b - 1):+.2f} % | {sum(ours) / len(ours):.5f} | "
                        f"{sum(other) / len(other):.5f} | {ratio:.3f} ({low:.3f}–{high:.3f}) | {100 * lower:.0f} % |")
        if given.confirm:
            rows.append(confirm(given, texts[0], form, file, sum(figures[texts[0][0]]) / len(figures[texts[0][0]]), environment))
    for form in filter(None, given.also.split(",")):
        file, figures = theirs(form)
        for name, _, _ in texts:
            rows.append(f"| llama.cpp {form} | {name} | {tensor_bytes(given.kvant, file):,} | | | "
                        f"{sum(figures[name]) / len(figures[name]):.5f} | | |")
    print("| format | text | tensor bytes | against llama.cpp's | kvant | llama.cpp | ratio (95 %) | lower on |")
    print("|---|---|---:|---:|---:|---:|---|---:|")
    print("\n".join(rows))


def confirm(given, text, form, file, own, environment):
    """llama-perplexity's own KL divergence: of the file expanded to f16, and of the file as it is."""
    name, path, count = text
    base = given.work / f"base-{name}.kld"
    common = ["-f", path, "-c", 512, "--chunks", count, "-b", 512]
    perplexity = given.llama / "llama-perplexity"
    if not base.exists():
        run([perplexity, "-m", given.model, "--kl-divergence-base", base, *common], given.work / "base.log", environment)
    expanded = given.work / f"kvant-{form}-f16.gguf"
    run([given.llama / "llama-quantize", "--allow-requantize", file, expanded, "f16"], given.work / "expand.log", environment)
    found = []
    for which in (expanded, file):
        out = run([perplexity, "-m", which, "--kl-divergence-base", base, "--kl-divergence", *common],
                  given.work / "kld.log", environment)
        found.append(float(re.search(r"Mean\s+KLD:\s+([0-9.]+)", out).group(1)))
    expanded.unlink()
    return (f"| {form} by llama.cpp | {name} | | | {own:.5f} | expanded {found[0]:.5f} ({100 * (found[0] / own - 1):+.1f} %), "
            f"as it is {found[1]:.5f} | | |")


if __name__ == "__main__":
    main()
