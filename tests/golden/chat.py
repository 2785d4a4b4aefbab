"""One question to SmolLM2, answered greedily by llama.cpp: the prompt, its ids, the answer.

Writes `chat.json` beside this script. The model's own chat template is rendered by jinja2 as
transformers does it, tokenized with control tokens recognised, and answered at temperature 0 for
up to 64 tokens, three ways:

  exact       the weights expanded to f32: no rounding of activations or cache; the reference
  llama_cpp   the file itself with upstream's kernels, which round activations to 8 or 16 bits
  completion  the text that llama-completion --jinja prints, with its defaults (f16 cache, repacking)

`margins` are the differences between the two largest logits of every step: where one is small,
an honest engine may differ from that step on.

    pip install gguf==0.19.0 jinja2 numpy; llama-cpp-python 0.3.36 and its libllama.so (see README.md)
    python chat.py --llama-bin DIR [--llama-python DIR] --models DIR [--threads 2]
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import gguf
import jinja2.sandbox
import numpy

import llama

HERE = pathlib.Path(__file__).resolve().parent
QUESTION = "What is the capital of France?"
LIMIT = 64
MODELS = ["smollm2-135m-instruct-q4_1.gguf", "smollm2-135m-f16.gguf"]


def render(path, messages):
    fields = gguf.GGUFReader(path).fields
    template = fields["tokenizer.chat_template"].contents()
    pieces = fields["tokenizer.ggml.tokens"].contents
    names = {
        key: pieces(int(fields[f"tokenizer.ggml.{kind}_token_id"].contents()))
        for key, kind in (("bos_token", "bos"), ("eos_token", "eos"))
    }
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **names)


def answer(path, prompt, threads, cache_f32):
    """Greedy tokens after `prompt`, without the one that ends the turn."""
    model = llama.Model(path)
    ids = model.tokenize(prompt.encode(), add_special=True, parse_special=True)
    context = model.context(len(ids) + LIMIT, threads, cache_f32)
    logits, tokens, margins, ended = context.forward(ids, every=False)[0], [], [], None
    while len(tokens) < LIMIT:
        second, first = numpy.sort(logits)[-2:]
        margins.append(round(float(first - second), 3))
        token = int(logits.argmax())
        if model.ends_generation(token):
            ended = token
            break
        tokens.append(token)
        logits = context.forward([token], every=False)[0]
    text = b"".join(model.piece(token) for token in tokens).decode("utf-8", "replace")
    context.close()
    model.close()
    return ids, {"ids": tokens, "text": text, "ended_by": ended, "margins": margins}


def completion(tool, path, threads):
    """What the command-line tool prints after its prompt."""
    command = [tool, "-m", path, "--jinja", "-cnv", "-st", "-p", QUESTION, "-n", LIMIT, "--temp", 0, "-t", threads,
               "--no-display-prompt", "--color", "off", "--no-perf", "--simple-io"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama.add_flags(parser)
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    llama.load(arguments)
    messages = [{"role": "user", "content": QUESTION}]
    result = {"messages": messages, "limit": LIMIT, "models": {}}
    for name in MODELS:
        path = arguments.models / name
        prompt = render(path, messages)
        ids, direct = answer(path, prompt, arguments.threads, cache_f32=False)
        with tempfile.TemporaryDirectory() as scratch:
            wide = pathlib.Path(scratch) / "f32.gguf"
            subprocess.run(
                [str(part) for part in (arguments.llama_bin / "llama-quantize", "--allow-requantize", path, wide, "f32", arguments.threads)],
                check=True, capture_output=True)
            _, exact = answer(wide, prompt, arguments.threads, cache_f32=True)
        printed = completion(arguments.llama_bin / "llama-completion", path, arguments.threads)
        result["models"][name] = {
            "prompt": prompt, "prompt_ids": ids, "exact": exact, "llama_cpp": direct, "completion": printed,
        }
        print(name, repr(exact["text"]), min(exact["margins"]), repr(direct["text"]), repr(printed), sep="\n  ", flush=True)
    # Lists of numbers on one line each.
    text = json.dumps(result, indent=1)
    lines, row = [], None
    for line in text.split("\n"):
        if row is not None:
            row += line.strip() + (" " if line.strip().endswith(",") and line.strip() != "]," else "")
            if line.strip() in ("]", "],"):
                lines.append(row)
                row = None
        elif line.endswith("[") and "messages" not in line:
            row = line
        else:
            lines.append(line)
    (HERE / "chat.json").write_text("\n".join(lines) + "\n")
    assert json.loads((HERE / "chat.json").read_text()) == result


if __name__ == "__main__":
    main()
