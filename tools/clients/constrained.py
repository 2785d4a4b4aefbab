#!/usr/bin/env python3
"""Asks for answers in random JSON Schemas, checks each with another validator, and sends schemas made to do harm.

    pip install jsonschema
    python3 constrained.py --kvant target/release/kvant --model MODEL [--count 1000]

Prints how many answers are valid, and how long the worst hostile schema took and how much memory the server took for it.
"""
import argparse
import concurrent.futures
import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request

import jsonschema

sys.setrecursionlimit(50_000)


def schema(generator, depth=0):
    """Returns a random schema whose answers have a limited length."""
    kinds = ["string", "integer", "number", "boolean", "enum", "const", "pattern", "null"]
    kinds += ["object", "array", "anyOf"] if depth < 3 else []
    kind = generator.choice(kinds)
    if kind == "string":
        return {"type": "string", "minLength": generator.randint(0, 3), "maxLength": generator.randint(3, 10)}
    if kind == "integer":
        low = generator.randint(-1000, 1000)
        return {"type": "integer", "minimum": low, "maximum": low + generator.randint(0, 5000)}
    if kind == "number":
        return {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.01}
    if kind == "enum":
        return {"enum": generator.sample(["red", "green", "파랑", 1, 2.5, True, None, "a\"b"], 3)}
    if kind == "const":
        return {"const": generator.choice(["x", 7, False])}
    if kind == "pattern":
        return {"type": "string", "pattern": generator.choice(["^[a-f0-9]{8}$", "^\\d{4}-\\d{2}$", "^(yes|no)$", "^[가-힣]{2,4}$"])}
    if kind == "object":
        names = generator.sample(["name", "age", "city", "tags", "이름", "nested", "ok"], generator.randint(1, 4))
        properties = {name: schema(generator, depth + 1) for name in names}
        required = [name for name in names if generator.random() < 0.7]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        low = generator.randint(0, 2)
        return {"type": "array", "items": schema(generator, depth + 1), "minItems": low, "maxItems": low + generator.randint(0, 2)}
    if kind == "anyOf":
        return {"anyOf": [schema(generator, depth + 1) for _ in range(2)]}
    return {"type": kind}


def hostile():
    """Returns names and schemas."""
    deep = {"type": "string"}
    for _ in range(2000):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    lists = {"type": "array", "items": {"type": "string"}, "maxItems": 10}
    for _ in range(9):
        lists = {"type": "array", "items": lists, "minItems": 10, "maxItems": 10}
    branches = {"d18": {"type": "string"}}
    for level in range(18):
        next_level = {"$ref": f"#/$defs/d{level + 1}"}
        branches[f"d{level}"] = {"anyOf": [{"type": "object", "properties": {name: next_level}} for name in "ab"]}
    both = {"$defs": branches, "$ref": "#/$defs/d0"}
    circle = {"$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"}
    every = {"allOf": [{"anyOf": [{"properties": {f"p{i}_{j}": {"type": "integer"}}} for j in range(8)]} for i in range(12)]}
    return {
        "2,000 levels": deep,
        "10^10 elements": lists,
        "2^18 branches": both,
        "references in a circle": circle,
        "8^12 combinations": every,
        "1 MB of properties": {"type": "object", "properties": {f"property{i:06}": {"type": "string"} for i in range(24000)}},
        "1 MB of words": {"enum": [f"{i:08}" * 8 for i in range(16000)]},
        "a long repetition": {"type": "string", "pattern": "^((a|b|ab){1,500}c){1,500}$"},
        "repetitions in repetitions": {"type": "string", "pattern": "^" + "(" * 12 + "a" + "{1,30})" * 12 + "$"},
        "ten million characters": {"type": "string", "minLength": 10_000_000, "maxLength": 10_000_001},
        "a regex that looks back": {"type": "string", "pattern": "^(a+)+\\1$"},
        "many exact multiples": {"type": "number", "multipleOf": 0.0000001, "minimum": 0.1234567, "maximum": 99999999},
    }


class Server:
    def __init__(self, arguments):
        command = [arguments.kvant, "serve", arguments.model, "--port", "0", "--json", "--parallel", "8"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = json.loads(self.process.stdout.readline())["address"]

    def ask(self, body):
        request = urllib.request.Request(f"{self.address}/v1/completions", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def peak(self):
        """The largest memory so far, in MiB."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kvant", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    server = Server(arguments)
    generator = random.Random(30)
    schemas = [schema(generator) for _ in range(arguments.count)]

    def valid(index):
        body = {"prompt": "Data:", "max_tokens": 480, "temperature": 1.0, "seed": index,
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schemas[index]}}}
        status, answer = server.ask(body)
        if status != 200:
            return f"status {status}: {answer['error']['message'][:200]}"
        choice = answer["choices"][0]
        try:
            jsonschema.validate(json.loads(choice["text"]), schemas[index])
        except (ValueError, jsonschema.ValidationError) as error:
            return f"{choice['finish_reason']}: {choice['text'][:100]!r}: {str(error)[:100]}"
        return None

    begin = time.time()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        problems = [(index, problem) for index, problem in enumerate(pool.map(valid, range(len(schemas)))) if problem]
    for index, problem in problems[:10]:
        print(f"not valid: {json.dumps(schemas[index], ensure_ascii=False)[:200]}: {problem}")
    print(f"{len(schemas) - len(problems)} of {len(schemas)} answers are valid, in {time.time() - begin:.1f} s")
    server.process.kill()

    longest, most = 0.0, 0.0
    for name, harm in hostile().items():
        server = Server(arguments)
        server.ask({"prompt": "x", "max_tokens": 1, "regex": "a"})
        before = server.peak()
        begin = time.time()
        status, answer = server.ask({"prompt": "x", "max_tokens": 4, "json_schema": harm})
        seconds, memory = time.time() - begin, server.peak() - before
        longest, most = max(longest, seconds), max(most, memory)
        said = "an answer" if status == 200 else f"{status}: {answer['error']['message'][:90]}"
        print(f"hostile, {name}: {seconds:.2f} s, {memory:.0f} MiB, {said}")
        assert server.process.poll() is None
        server.process.kill()
    print(f"hostile schemas: at most {longest:.2f} s and {most:.0f} MiB")
    sys.exit(1 if problems or longest > 1 or most > 256 else 0)


if __name__ == "__main__":
    main()
