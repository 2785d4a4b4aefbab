#!/usr/bin/env python3
"""Starts `kvant serve` with the arguments of llama.cpp's llama-server, for llama.cpp's own tests.

Variables: KVANT (the program), KVANT_MODEL (stands for every model that writes text), KVANT_ENCODER (stands for every
model that gives vectors).
"""
import datetime
import json
import os
import sys

# Flags that only name a file to download, or that `kvant serve` does not have and that change nothing in the tests.
DROPPED = {"--hf-file": 1, "--model-url": 1, "--offline": 0, "--no-jinja": 0, "--tags": 1,
           "--slot-save-path": 1, "--no-cache-idle-slots": 0, "--no-mmproj": 0, "--backend_sampling": 0, "-ctk": 1,
           "-ctv": 1, "--reasoning-format": 1, "--media-path": 1, "--ui-mcp-proxy": 0, "--tools": 1, "--lora": 1,
           "--context-shift": 0, "--spec-type": 1, "--sleep-idle-seconds": 1, "--models-max": 1, "--models-dir": 1,
           "--no-models-autoload": 0, "--models-preset": 1}
ENCODERS = ("bert", "bge", "embed")


def translated(arguments):
    """Returns the arguments of `kvant serve`."""
    result, model, context, parallel, unified = [], None, None, 1, False
    rest = iter(arguments)
    for flag in rest:
        if flag in DROPPED:
            for _ in range(DROPPED[flag]):
                value = next(rest)
                if flag == "--hf-file":
                    model = value if model is None else f"{model}/{value}"
        elif flag in ("--hf-repo", "--model"):
            model = next(rest)
        elif flag == "--ctx-size":
            context = int(next(rest))
        elif flag == "--parallel":
            parallel = int(next(rest))
        elif flag == "--kv-unified":
            unified = True
        elif flag == "--reasoning":
            # llama-server's `auto` turns reasoning on where the template can; kvant's leaves it to the template.
            value = next(rest)
            result += [flag, "on" if value == "auto" else value]
        else:
            result.append(flag)
    is_encoder = any(name in (model or "").lower() for name in ENCODERS)
    if context:
        # llama-server divides its context between its slots.
        result += ["--ctx", str(context if unified else context // parallel)]
    result += ["--parallel", str(parallel)]
    if "--metrics" not in result:
        result.append("--no-metrics")
    if "--cors-origins" not in result:
        # llama-server allows every origin.
        result += ["--cors-origins", "*"]
    # llama-server gives templates the date and an empty list of functions.
    today = datetime.date.today()
    dates = {"date_string": today.strftime("%d %b %Y"), "datetime": today.strftime("%b %d %Y"), "functions": ""}
    result += ["--chat-template-kwargs", json.dumps(dates)]
    return [os.environ["KVANT_ENCODER" if is_encoder else "KVANT_MODEL"]] + result


if __name__ == "__main__":
    command = [os.environ["KVANT"], "serve"] + translated(sys.argv[1:])
    os.execv(command[0], command)
