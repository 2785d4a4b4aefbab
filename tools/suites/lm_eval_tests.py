#!/usr/bin/env python3
"""Runs a task of lm-eval through `kvant serve` and through transformers, and compares the answers item by item.

    pip install lm-eval==0.4.13 accelerate transformers torch aiohttp tenacity
    python3 lm_eval_tests.py --kvant target/release/kvant --model MODEL --items valid.jsonl --labels valid-labels.lst

MODEL is a Hugging Face folder: both sides run it without quantization (`kvant serve --activations f32 --kv f32`). The items
are PIQA's: a goal, two solutions, and the number of the right one. Ends with status 1 if the two sides choose different
answers in more than --tolerance of the items (default: none).
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

TASK = """
task: piqa_file
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {data}
validation_split: validation
test_split: null
output_type: multiple_choice
doc_to_text: "Question: {{{{goal}}}}\\nAnswer:"
doc_to_target: label
doc_to_choice: "{{{{[sol1, sol2]}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def evaluate(model, arguments, folder, limit):
    """Returns for each item whether the answer was right, and the log probabilities of both."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    result = lm_eval.simple_evaluate(model=model, model_args=arguments, tasks=["piqa_file"], task_manager=manager, limit=limit,
                                     log_samples=True, bootstrap_iters=0, batch_size=1, device="cpu")
    samples = sorted(result["samples"]["piqa_file"], key=lambda sample: sample["doc_id"])
    return ([sample["acc"] for sample in samples],
            [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kvant", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--items", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--tolerance", type=float, default=0.0)
    parser.add_argument("--served", help="serves this file instead of MODEL, for example a quantized one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        labels = open(arguments.labels).read().split()
        with open(folder / "items.jsonl", "w") as file:
            for line, label in zip(open(arguments.items), labels):
                file.write(json.dumps(dict(json.loads(line), label=int(label))) + "\n")
        (folder / "piqa_file.yaml").write_text(TASK.format(data=folder / "items.jsonl"))
        exact = [] if arguments.served else ["--activations", "f32", "--kv", "f32"]
        server = subprocess.Popen([arguments.kvant, "serve", arguments.served or arguments.model, "--port", "0", "--json", *exact],
                                  stdout=subprocess.PIPE, text=True)
        try:
            address = json.loads(server.stdout.readline())["address"]
            served = evaluate("local-completions",
                              f"model=served,base_url={address}/v1/completions,tokenizer={arguments.model},num_concurrent=4,add_bos_token=True,"
                              "max_length=1024", folder, arguments.limit)
        finally:
            server.terminate()
            server.wait()
        own = evaluate("hf", f"pretrained={arguments.model},dtype=float32,add_bos_token=True,max_length=1024", folder, arguments.limit)
    count = len(own[0])
    different = sum(a != b for a, b in zip(served[0], own[0]))
    largest = max(abs(a - b) for left, right in zip(served[1], own[1]) for a, b in zip(left, right))
    print(f"{count} items: {sum(served[0]) / count:.4f} right through the server, {sum(own[0]) / count:.4f} in transformers; "
          f"{different} items differ; log probabilities differ by at most {largest:.5f}")
    sys.exit(1 if different > arguments.tolerance * count else 0)


if __name__ == "__main__":
    main()
