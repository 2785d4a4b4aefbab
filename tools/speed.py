#!/usr/bin/env python3
"""Holds kvant's speed against llama.cpp's on the same files, in turns.

    python3 tools/speed.py --llama BUILD/bin --kvant target/release/kvant MODEL.gguf... [-p 512] [-n 32] [-d 0] [-r 5]

Each round runs `kvant bench` and `llama-bench` once, one after the other, for every test; what is told are medians, the
median of the rounds' ratios, and kvant's shares of the bandwidth and of the integer peak that it probed beside its runs.
Needs nothing but Python 3 and a build of llama.cpp.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--kvant", type=Path, default=Path("target/release/kvant"))
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("-d", type=int, default=0)
    parser.add_argument("-r", type=int, default=5)
    parser.add_argument("-t", type=int, default=2)
    arguments = parser.parse_args()

    def ours(model):
        command = [arguments.kvant.resolve(), "bench", model, "-p", arguments.p, "-n", arguments.n, "-d", arguments.d]
        command += ["-r", 1, "-t", arguments.t, "--json"]
        out = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout
        return json.loads(out)["rows"]

    def theirs(model, tokens, answer, depth):
        command = [arguments.llama.resolve() / "llama-bench", "-m", model, "-p", tokens, "-n", answer, "-d", depth]
        command += ["-r", 1, "-t", arguments.t, "-o", "json"]
        out = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout
        return [row["avg_ts"] for row in json.loads(out)]

    print("| file | test | kvant tok/s | llama.cpp tok/s | ratio | of bandwidth | of peak |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for model in arguments.models:
        rounds = {}
        for _ in range(arguments.r):
            rows = ours(model)
            peers = []
            if arguments.p:
                peers += theirs(model, arguments.p, 0, 0)
            if arguments.n:
                peers += theirs(model, 0, arguments.n, arguments.d)
            for row, peer in zip(rows, peers):
                rounds.setdefault(row["test"], []).append((row, peer))
        for test, pairs in rounds.items():
            middle = lambda values: statistics.median(list(values))
            own = middle(row["tps_median"] for row, _ in pairs)
            other = middle(peer for _, peer in pairs)
            ratio = middle(row["tps_median"] / peer for row, peer in pairs)
            bandwidth = middle(row["bandwidth_fraction"] for row, _ in pairs)
            peak = middle(row["ops_fraction"] for row, _ in pairs)
            print(
                f"| {model.name} | {test} | {own:.1f} | {other:.1f} | {ratio:.2f} | {bandwidth:.0%} | {peak:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
