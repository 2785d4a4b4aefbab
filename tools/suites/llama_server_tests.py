#!/usr/bin/env python3
"""Runs llama.cpp's own server tests on `kvant serve`, and prints what passed and why the rest did not.

    pip install gguf==0.19.0 numpy pytest pytest-timeout requests openai filelock prometheus-client wget aiohttp
    python3 llama_server_tests.py FOLDER --kvant target/release/kvant [--encoder MODEL] [--model MODEL]

FOLDER receives the tests, from the source package of llama-cpp-python (75 MB). --model stands for stories260K, which
../stories260k.py writes (with a context of 2048); without it, a tiny Llama with random weights (stand_in.py) does. --encoder
stands for bge-small: any BERT with 512 tokens, for example a GGUF of all-MiniLM-L6-v2; without it, the tests of vectors are
left out. Ends with status 1 if a test fails without a reason in this file. Only tests of the default set run
(`-m "not slow"`): the slow ones download models of several GB.
"""
import argparse
import collections
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = "llama-cpp-python==0.3.36"
INSIDE = ("vendor/llama.cpp/tools/server/tests/", "vendor/llama.cpp/models/templates/")

SAMPLED = "compares with a text or a token count that stories260K and llama.cpp's own generator give"
IMAGES = "images come with the vision models"
INTERNAL = "an internal function of llama-server"
FILES_LEFT_OUT = {
    "test_compat_gcp": INTERNAL, "test_kv_keep_only_active": INTERNAL, "test_mcp_servers": INTERNAL,
    "test_proxy": INTERNAL, "test_sleep": INTERNAL, "test_stream": "streams that a client resumes: llama-server's own form",
    "test_tools_builtin": INTERNAL, "test_slot_save": "files of slots: llama.cpp's own format",
    "test_router": "starts a process for each model; kvant has several models in one process",
    "test_infill": "needs a model with fill-in-the-middle tokens", "test_lora": "adapters are not there yet",
    "test_speculative": "draft models are not there yet", "test_vision_api": IMAGES,
    "test_rerank": "needs jina-reranker-v1-tiny, which no package carries",
}
REASONS = {
    "test_basic::test_server_multiple_addresses": "one address a server",
    "test_basic::test_load_split_model": SAMPLED,
    "test_basic::test_server_model_aliases_and_tags": "one name a model, and no tags",
    "test_chat_completion::test_chat_completion": SAMPLED,
    "test_chat_completion::test_chat_completion_cached_tokens": SAMPLED + "; exact in kvant's own tests",
    "test_chat_completion::test_chat_completion_stream": SAMPLED,
    "test_chat_completion::test_chat_completion_with_openai_library": SAMPLED,
    "test_chat_completion::test_chat_template": "templates built into llama.cpp; kvant takes the model's or a file",
    "test_chat_completion::test_apply_chat_template": "templates built into llama.cpp; kvant takes the model's or a file",
    "test_chat_completion::test_chat_template_assistant_prefill":
        "one of two cases: parts of text are joined with one line end; here the test expects two",
    "test_chat_completion::test_return_progress": "one of two cases: expects the number of llama.cpp's batches",
    "test_compat_anthropic::test_anthropic_tool_result_with_image": "expects status 500; kvant says 400",
    "test_compat_anthropic::test_anthropic_vision_format_accepted": "expects status 500; kvant says 400",
    "test_compat_anthropic::test_anthropic_vision_base64_with_multimodal_model": IMAGES,
    "test_compat_anthropic::test_anthropic_empty_messages": "expects an answer to no message; Anthropic and kvant refuse it",
    "test_compat_oai_responses::test_responses_with_openai_library": SAMPLED,
    "test_compat_oai_responses::test_responses_stream_with_openai_library": SAMPLED,
    "test_compat_oai_responses::test_responses_stream_with_llama_telemetry":
        "expects `response.completed` for an answer cut by its limit; OpenAI and kvant send `response.incomplete`",
    "test_completion::test_completion": SAMPLED,
    "test_completion::test_completion_stream": SAMPLED,
    "test_completion::test_completion_with_openai_library": SAMPLED,
    "test_completion::test_completion_stream_with_openai_library": SAMPLED,
    "test_completion::test_completion_prompt_cache": SAMPLED,
    "test_ctx_shift::test_ctx_shift_enabled": "the context does not shift: an answer that forgets its beginning is another one",
    "test_ctx_shift::test_ctx_shift_disabled_short_prompt": SAMPLED,
    "test_embedding::test_embedding_pooling_none": "vectors of single tokens are not there",
    "test_embedding::test_embedding_pooling_none_oai": "vectors of single tokens are not there",
    "test_metrics::test_metrics_prometheus_format": "asks for every metric of llama-server, also those of draft models",
    "test_security::test_access_static_assets_without_api_key": "names of files of llama-server's own page",
    "test_security::test_cors_options": "three of five cases: expects cookies from every origin, and * for headers",
    "test_security::test_cors_origins_defaults_to_localhost_with_tools_enabled": INTERNAL,
    "test_security::test_cors_proxy_only_forwards_explicit_proxy_headers": INTERNAL,
    "test_security::test_local_media_file": IMAGES,
}


def fetch(folder):
    """Brings the tests into `folder`."""
    tests = folder / INSIDE[0]
    if not tests.exists():
        if not list(folder.glob("llama_cpp_python-*.tar.gz")):
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python",
                            "-d", folder, PACKAGE], check=False)
        archives = list(folder.glob("llama_cpp_python-*.tar.gz"))
        if not archives:
            print(f"{PACKAGE}: the source package cannot be fetched")
            sys.exit(75)
        with tarfile.open(archives[0]) as archive:
            for member in archive:
                inner = member.name.split("/", 1)[-1]
                if member.isfile() and inner.startswith(INSIDE):
                    target = folder / inner
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.extractfile(member).read())
    # No test may download models at the start.
    utils = tests / "utils.py"
    text = utils.read_text()
    begin = "        servers: List[ServerProcess] = ["
    if f"        return\n{begin}" not in text:
        utils.write_text(text.replace(begin, f"        return\n{begin}"))
    # kvant's names of metrics.
    metrics = tests / "unit/test_metrics.py"
    text = metrics.read_text()
    text = text.replace("llamacpp:", "kvant_").replace("n_decode_total", "steps_total")
    text = text.replace('and "{" not in line:', 'and "le=" not in line:')
    text = text.replace('name, value = line.split(" ", 1)',
                        'name, value = line.split("{")[0].split(" ")[0], line.rsplit(" ", 1)[1]')
    text = text.replace('assert name in types, f"{name} has no # TYPE line"',
                        'types.setdefault(name, types.get(name.removesuffix("_total").removesuffix("_sum").removesuffix("_count")))')
    metrics.write_text(text)
    return tests


def run(tests, arguments, folder):
    """Runs the tests, and returns for each function the numbers of passed, failed and skipped cases, and the first error."""
    files = [path for path in sorted((tests / "unit").glob("test_*.py")) if path.stem not in FILES_LEFT_OUT]
    if not arguments.encoder:
        files = [path for path in files if path.stem != "test_embedding"]
    environment = dict(os.environ, KVANT=str(pathlib.Path(arguments.kvant).resolve()), KVANT_MODEL=str(arguments.model),
                       KVANT_ENCODER=str(arguments.encoder or ""), LLAMA_SERVER_BIN_PATH=str(HERE / "llama_server.py"),
                       PORT=str(arguments.port))
    report = folder / "report.xml"
    left_out = [] if arguments.encoder else ["--deselect", "unit/test_metrics.py::test_metrics_embedding_prompt_is_counted"]
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=60", "--tb=short", "-m", "not slow", f"--junitxml={report}",
               "-p", "no:cacheprovider", *left_out, *[str(path.relative_to(tests)) for path in files]]
    with open(folder / "tests.log", "w") as log:
        subprocess.run(command, cwd=tests, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    found = collections.OrderedDict()
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        name = case.get("classname").split(".")[-1] + "::" + case.get("name").split("[")[0]
        counts = found.setdefault(name, {"passed": 0, "failed": 0, "skipped": 0, "error": ""})
        problem = case.find("failure") if case.find("failure") is not None else case.find("error")
        if problem is not None:
            counts["failed"] += 1
            lines = [line[1:].strip() for line in (problem.text or "").splitlines() if line.startswith("E ")]
            counts["error"] = counts["error"] or " ".join(lines)[:160]
        else:
            counts["skipped" if case.find("skipped") is not None else "passed"] += 1
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--kvant", required=True)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--encoder", type=pathlib.Path)
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tests = fetch(folder)
    if arguments.model is None:
        arguments.model = folder / "stand-in.gguf"
        subprocess.run([sys.executable, HERE / "stand_in.py", arguments.model], check=True)
    for name in ("model", "encoder"):
        if getattr(arguments, name):
            setattr(arguments, name, getattr(arguments, name).resolve())
    found = run(tests, arguments, folder)
    passed = [name for name, counts in found.items() if counts["passed"] and not counts["failed"]]
    failed = {name: counts for name, counts in found.items() if counts["failed"]}
    for name, counts in failed.items():
        cases = f"{counts['failed']} of {counts['failed'] + counts['passed']} cases"
        print(f"not passed: {name} ({cases}): {REASONS.get(name, 'NO REASON: ' + counts['error'])}")
    for name, reason in FILES_LEFT_OUT.items():
        count = len(re.findall(r"^def test_", (tests / f"unit/{name}.py").read_text(), re.M))
        print(f"left out: {name} ({count} functions): {reason}")
    print(f"{len(passed)} functions passed, {len(failed)} did not")
    unexplained = [name for name in failed if name not in REASONS]
    sys.exit(1 if unexplained or not passed else 0)


if __name__ == "__main__":
    main()
