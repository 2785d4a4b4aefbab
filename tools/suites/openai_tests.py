#!/usr/bin/env python3
"""Runs the tests of OpenAI's own Python client on `kvant serve`, and prints what passed and why the rest did not.

    pip install openai==3.57.0 pytest pytest-asyncio pytest-xdist respx aiohttp inline-snapshot dirty-equals nest_asyncio rich
    python3 openai_tests.py FOLDER --kvant target/release/kvant --model MODEL [--encoder MODEL]

FOLDER receives the tests, from the client's source package. MODEL needs a chat template (`demo` is enough). The tests check
the type of every field of an answer. Ends with status 1 if a test fails without a reason in this file.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import os
import xml.etree.ElementTree

PACKAGE = "openai==3.57.0"
CHAT = ["chat/test_completions.py", "test_completions.py", "test_models.py", "test_responses.py",
        "responses/test_input_tokens.py"]
VECTORS = ["test_embeddings.py"]
STORED = "answers are not stored"
# The first pattern that fits tells the reason.
REASONS = [
    (r"test_(completions|responses|input_items).*(retrieve|update|list|delete|cancel|compact)", STORED),
    (r"test_input_tokens.*with_all_params", "asks for a stored answer (`previous_response_id`)"),
    (r"test_models.*delete", "models are not deleted over HTTP"),
    (r"chat.test_completions.*with_all_params", "asks for audio and for functions in OpenAI's oldest form"),
    (r"test_completions.*with_all_params", "asks for a text between two others (`suffix`)"),
    (r"test_responses.*with_all_params", "asks for a stored answer (`previous_response_id`)"),
    (r"test_embeddings.*with_all_params", "asks for vectors of one element"),
    (r"test_embeddings.*", "the strict client asks for base64, and then refuses base64"),
]


def fetch(folder):
    """Brings the tests into `folder`, and returns the folder to run them in."""
    root = folder / "openai"
    if not (root / "tests").exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "openai", "-d", folder, PACKAGE],
                       check=True)
        with tarfile.open(next(folder.glob("openai-*.tar.gz"))) as archive:
            for member in archive:
                inner = member.name.split("/", 1)[-1]
                if member.isfile() and inner.startswith("tests/"):
                    (root / inner).parent.mkdir(parents=True, exist_ok=True)
                    (root / inner).write_bytes(archive.extractfile(member).read())
    return root


def run(root, arguments, model, files):
    """Runs `files` on a server with `model`, and returns whether each case passed."""
    server = subprocess.Popen([arguments.kvant, "serve", model, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        address = json.loads(server.stdout.readline())["address"]
        report = root / "report.xml"
        modes = ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=session", "asyncio_default_test_loop_scope=session"]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += [part for mode in modes for part in ("-o", mode)] + [f"tests/api_resources/{file}" for file in files]
        environment = dict(os.environ, TEST_API_BASE_URL=f"{address}/v1")
        subprocess.run(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, check=False)
    finally:
        server.terminate()
        server.wait()
    cases = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            name = case.get("classname").replace("tests.api_resources.", "") + "." + case.get("name")
            problem = case.find("failure") if case.find("failure") is not None else case.find("error")
            cases[name] = None if problem is None else problem.get("message", "")[:160]
    return cases


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--kvant", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--encoder")
    arguments = parser.parse_args()
    arguments.kvant = str(pathlib.Path(arguments.kvant).resolve())
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    root = fetch(folder)
    absolute = lambda model: model if model == "demo" else str(pathlib.Path(model).resolve())
    cases = run(root, arguments, absolute(arguments.model), CHAT)
    if arguments.encoder:
        cases.update(run(root, arguments, absolute(arguments.encoder), VECTORS))
    reasons = {}
    for name, message in cases.items():
        if message is not None:
            reason = next((reason for pattern, reason in REASONS if re.search(pattern, name)), None)
            reasons.setdefault(reason or f"NO REASON: {message}", []).append(name)
    for reason, names in reasons.items():
        functions = sorted({re.sub(r"\[.*", "", name) for name in names})
        print(f"not passed: {len(names)} cases: {reason}: {', '.join(functions[:3])}{' …' if len(functions) > 3 else ''}")
    passed = sum(message is None for message in cases.values())
    print(f"{passed} cases passed, {len(cases) - passed} did not")
    sys.exit(1 if any(reason.startswith("NO REASON") for reason in reasons) or not passed else 0)


if __name__ == "__main__":
    main()
