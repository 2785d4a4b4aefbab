"""Loads files that kvant wrote in llama.cpp and compares logits. Nothing is committed; figures go to stdout.

    python peer_logits.py --llama-bin DIR [--llama-python DIR] --kvant PROGRAM [--tokens 256] FILE...

For each file: the largest difference, the root mean square difference as a share of the logits' standard
deviation, and how often the first choice differs where llama.cpp's margin between its first two exceeds 0.2 of
that deviation. llama.cpp rounds activations (to 8 bits for quantized weights, to 16 for f16), kvant does not.
"""

import argparse
import pathlib
import subprocess
import tempfile

import numpy

import llama

SENTENCES = (
    "Once upon a time there was a quick fox who lived in a warm den under an oak tree. One evening in June, the fox "
    "went to the market with a huge basket. 옛날 옛적에 작은 마을에 착한 소녀가 살았어요. 소녀는 매일 아침 숲으로 갔어요. "
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama.add_flags(parser)
    parser.add_argument("--kvant", type=pathlib.Path, required=True)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    llama.load(arguments)
    for file in arguments.files:
        model = llama.Model(file)
        ids = model.tokenize((SENTENCES * 8).encode(), add_special=True)[: arguments.tokens]
        theirs = model.context(len(ids)).forward(ids)
        ours = logits(arguments.kvant, file, ids)
        deviation = theirs.std(axis=1, keepdims=True)
        difference = ours - theirs
        rms = numpy.sqrt(((difference / deviation) ** 2).mean())
        top = numpy.sort(theirs, axis=1)
        clear = (top[:, -1] - top[:, -2]) > 0.2 * deviation[:, 0]
        other = (ours.argmax(axis=1) != theirs.argmax(axis=1)) & clear
        print(
            f"{file.name}: {len(ids)} tokens, largest difference {abs(difference).max():.5f}, rms {rms:.5f} of the "
            f"deviation, first choice differs at {other.sum()} of {clear.sum()} clear positions"
        )


def logits(program, file, ids):
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "logits.npy"
        command = [program, "logits", file, "--tokens", ",".join(map(str, ids)), "--npy", output, "-q"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return numpy.load(output)


main()
