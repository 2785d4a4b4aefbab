#!/usr/bin/env python3
"""Kills `kvant quantize` at random moments, starts it again each time, and compares with a run left in peace.

    python3 tools/kills.py --kvant target/release/kvant --kills 20 MODEL [quantize's flags, without -o]

Every kill is a SIGKILL after a random share of what the undisturbed run takes, and counts only if it hits a running
process. At the end the file has to be byte-identical to the undisturbed one, and one made with another number of
threads too.
"""

import argparse
import hashlib
import random
import subprocess
import tempfile
import time
from pathlib import Path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvant", default="target/release/kvant")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("model")
    given, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        def command(name, *more):
            return [given.kvant, "quantize", given.model, "-o", str(Path(folder) / name), "-q", *flags, *more]

        begin = time.monotonic()
        subprocess.run(command("calm.gguf", "-t", "2"), check=True, stdout=subprocess.DEVNULL)
        whole = time.monotonic() - begin
        print(f"undisturbed, two threads: {whole:.1f} s", flush=True)
        subprocess.run(command("one.gguf", "-t", "1"), check=True, stdout=subprocess.DEVNULL)
        calm = digest(Path(folder) / "calm.gguf")
        assert digest(Path(folder) / "one.gguf") == calm, "one thread gives another file"
        generator = random.Random(1)
        kills = 0
        while True:
            process = subprocess.Popen(command("killed.gguf", "-t", "2"), stdout=subprocess.DEVNULL)
            try:
                # Long enough on average that the work gets on, short enough that it is hit again and again.
                wait = generator.uniform(0, 3 * whole / given.kills) if kills < given.kills else None
                assert process.wait(wait) == 0, "a run that was left alone failed"
                if kills >= given.kills:
                    break
                (Path(folder) / "killed.gguf").unlink()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                assert not (Path(folder) / "killed.gguf").exists(), "a killed run left an output"
        assert digest(Path(folder) / "killed.gguf") == calm, "after kills the file is another one"
        left = [p.name for p in Path(folder).iterdir() if "work" in p.name]
        assert not left, f"left behind: {left}"
        print(f"{kills} kills; byte-identical; one thread byte-identical")


if __name__ == "__main__":
    main()
