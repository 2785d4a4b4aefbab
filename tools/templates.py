"""Chat templates rendered by Jinja2, set up as transformers does it, and by kvant: every text has to be equal.

    pip install jinja2==3.1.6
    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36      # and unpack it
    python3 tools/templates.py --templates llama_cpp_python-0.3.36/vendor/llama.cpp/models/templates \
        --kvant "cargo xtask render"

Each template is rendered for every conversation below. The judge is a copy of how
`transformers/utils/chat_template_utils.py` (5.24) sets Jinja2 up. Where Jinja2 raises, kvant has to raise, too. The
exit status is 1 if a difference has no reason in REASONS. `--golden` writes the expected texts of the project's own
templates into tests/golden/templates/expected.json; `--show` prints differing texts whole.
"""

import argparse
import datetime
import glob
import json
import os
import shlex
import subprocess
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "tests", "golden", "templates")
# Wednesday, 2026-03-04 05:06:07 UTC.
UNIX = 1772600767
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
# (template, conversation) whose difference is meant, and why.
REASONS = {}


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _support(self, context, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format):
        return datetime.datetime.fromtimestamp(UNIX, datetime.timezone.utc).replace(tzinfo=None).strftime(format)

    class Dict:
        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

        def fromkeys(self, *args, **kwargs):
            return dict.fromkeys(*args, **kwargs)

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, args = args[0], args[1:]
            attrs = dict(*args, **kwargs)
            for name in attrs:
                Namespace._check(name)
            jinja2.utils.Namespace.__init__(self, attrs)

        def __setitem__(self, name, value):
            Namespace._check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def _check(name):
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(name)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Namespace
    return env


REASONING = ("reasoning_content", "thinking", "reasoning")


def judge(env, request):
    """The text, or the error, that transformers gives."""
    variables = json.loads(json.dumps(request["variables"]))
    messages = []
    for message in variables.get("messages", []):
        message = {k: v for k, v in message.items() if v is not None}
        reasoning = next((message[k] for k in REASONING if message.get(k) is not None), None)
        if reasoning is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        messages.append(message)
    tag = "CONTINUE_FINAL_MESSAGE_TAG "
    final = None
    if request.get("continue_final"):
        final = messages[-1]["content"]
        if isinstance(final, list):
            block = next(b for b in reversed(final) if "text" in b)
            final, block["text"] = block["text"], block["text"] + tag
        else:
            messages[-1]["content"] = final + tag
    variables.setdefault("tools", None)
    variables.setdefault("documents", None)
    variables["messages"] = messages
    try:
        text = env.from_string(request["template"]).render(**{**request["tokens"], **variables})
        if final is not None:
            if final.strip() not in text or tag.strip() not in text:
                raise ValueError("the final message does not appear")
            at = text.rindex(tag.strip())
            text = text[:at] if text[at : at + len(tag)] == tag else text[:at].rstrip()
        text.encode()
        return {"text": text}
    except Exception as error:  # Whatever Python raises is a refusal.
        return {"error": f"{type(error).__name__}: {error}"}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a <city> & 'its' \"surroundings\"",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "도시 이름"},
                    "days": {"type": "integer", "default": 1, "minimum": 0.5},
                    "unit": {"type": ["string", "null"], "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city"],
            },
            "return": {"type": "string"},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "stop",
            "description": "Ends it.",
            "parameters": {"type": "object", "properties": {}, "required": []},
        },
    },
]
SYSTEM = {"role": "system", "content": "You are terse.\nAnd kind."}
ASK = {"role": "user", "content": "What's 2 < 3 & \"four\"?"}


def call(arguments, **more):
    return {"type": "function", "function": {"name": "get_weather", "arguments": arguments}, **more}


def conversations():
    """Name and variables of every conversation; `continue_final` is taken out by the caller."""
    answer = {"role": "assistant", "content": "Five."}
    thought = {"role": "assistant", "content": "Five.", "reasoning_content": "2 + 3\nis 5"}
    tagged = {"role": "assistant", "content": "<think>\n2 + 3\n</think>\n\nFive."}
    korean = [
        {"role": "system", "content": "당신은 친절합니다."},
        {"role": "user", "content": "  안녕하세요? 🦊\n"},
        {"role": "assistant", "content": "네, 안녕하세요."},
        {"role": "user", "content": "고양이 이야기를 들려줘."},
    ]
    use = [ASK, {"role": "assistant", "content": "", "tool_calls": [call({"city": "서울", "days": 2, "deep": {"a": [1, 2.5, None, True]}}, id="abcdefghi")]}]
    result = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": '{"temperature": 21}'}
    text = [ASK, {"role": "assistant", "content": None, "tool_calls": [call('{"city": "서울"}', id="call00001")]}]
    two = [
        ASK,
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "I need two.", "tool_calls": [call({"city": "A"}, id="aaaaaaaaa"), call({"city": "B"}, id="bbbbbbbbb")]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "aaaaaaaaa", "content": "1"},
        {"role": "tool", "name": "get_weather", "tool_call_id": "bbbbbbbbb", "content": "2"},
        {"role": "assistant", "content": "One and two."},
        ASK,
    ]
    parts = [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "what?"}]}]
    documents = [{"title": "T", "text": "Some 'text'"}, {"title": "U", "text": "more"}]
    ask = dict(add_generation_prompt=True)
    yield "user", dict(messages=[ASK], **ask)
    yield "user-no-prompt", dict(messages=[ASK], add_generation_prompt=False)
    yield "system", dict(messages=[SYSTEM, ASK], **ask)
    yield "developer", dict(messages=[{**SYSTEM, "role": "developer"}, ASK], **ask)
    yield "turns", dict(messages=[SYSTEM, ASK, answer, ASK, answer, ASK], **ask)
    yield "turns-no-prompt", dict(messages=[ASK, answer, ASK, answer], add_generation_prompt=False)
    yield "reasoning", dict(messages=[ASK, thought, ASK], **ask)
    yield "reasoning-last", dict(messages=[ASK, thought], add_generation_prompt=False)
    yield "tagged", dict(messages=[SYSTEM, ASK, tagged, ASK], **ask)
    yield "thinking-off", dict(messages=[SYSTEM, ASK], enable_thinking=False, thinking=False, **ask)
    yield "thinking-on", dict(messages=[SYSTEM, ASK], enable_thinking=True, thinking=True, reasoning_effort="high", **ask)
    yield "korean", dict(messages=korean, **ask)
    yield "tools", dict(messages=[ASK], tools=TOOLS, **ask)
    yield "tools-system", dict(messages=[SYSTEM, ASK], tools=TOOLS, **ask)
    yield "tools-empty", dict(messages=[SYSTEM, ASK], tools=[], documents=[], **ask)
    yield "call", dict(messages=use, tools=TOOLS, add_generation_prompt=False)
    yield "result", dict(messages=[SYSTEM, *use, result], tools=TOOLS, **ask)
    yield "result-answer", dict(messages=[*use, result, answer, ASK], tools=TOOLS, **ask)
    yield "call-text", dict(messages=[*text, {**result, "tool_call_id": "call00001"}], tools=TOOLS, **ask)
    yield "calls", dict(messages=two, tools=TOOLS, **ask)
    yield "calls-without-tools", dict(messages=two, **ask)
    yield "documents", dict(messages=[SYSTEM, ASK], documents=documents, **ask)
    yield "parts", dict(messages=parts, **ask)
    yield "continued", dict(messages=[SYSTEM, ASK, {"role": "assistant", "content": "It is "}], add_generation_prompt=False, continue_final=True)
    yield "continued-parts", dict(messages=[*parts, {"role": "assistant", "content": [{"type": "text", "text": "I see"}]}], add_generation_prompt=False, continue_final=True)
    yield "unknown-role", dict(messages=[{"role": "critic", "content": "Hm."}, ASK], **ask)
    yield "assistant-first", dict(messages=[answer, ASK], **ask)
    yield "empty", dict(messages=[], **ask)
    yield "blank", dict(messages=[{"role": "user", "content": " \n "}], **ask)


def requests(folder):
    for path in sorted(glob.glob(os.path.join(folder, "*.jinja"))):
        source = open(path, encoding="utf-8").read()
        name = os.path.splitext(os.path.basename(path))[0]
        for title, variables in conversations():
            continued = variables.pop("continue_final", False)
            request = dict(template=source, tokens=TOKENS, variables=variables, continue_final=continued, unix=UNIX)
            yield name, title, request


def rendered(program, all_requests):
    """What kvant says to each request."""
    lines = "".join(json.dumps(request, ensure_ascii=False) + "\n" for request in all_requests)
    result = subprocess.run(shlex.split(program), input=lines.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in result.stdout.decode().split("\n") if line]


def golden():
    env = environment()
    expected = {}
    for name, title, request in requests(GOLDEN):
        expected.setdefault(name, {})[title] = judge(env, request).get("text")
    unique = {}
    for title, variables in conversations():
        unique[title] = variables
    out = dict(unix=UNIX, tokens=TOKENS, conversations=unique, expected=expected)
    with open(os.path.join(GOLDEN, "expected.json"), "w", encoding="utf-8") as file:
        json.dump(out, file, ensure_ascii=False, indent=1)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", help="folder of *.jinja")
    parser.add_argument("--kvant", default="cargo xtask render", help="reads requests, one JSON object a line")
    parser.add_argument("--golden", action="store_true", help="write the expected texts of the project's templates")
    parser.add_argument("--show", action="store_true", help="print differing texts whole")
    arguments = parser.parse_args()
    if arguments.golden:
        return golden()
    env = environment()
    todo = list(requests(arguments.templates))
    found = rendered(arguments.kvant, [request for _, _, request in todo])
    assert len(found) == len(todo), f"{len(found)} answers to {len(todo)} requests"
    texts = raised = unexplained = 0
    differing = set()
    for (name, title, request), ours in zip(todo, found):
        theirs = judge(env, request)
        if "error" in theirs and "error" in ours:
            raised += 1
        elif theirs.get("text") == ours.get("text"):
            texts += 1
        else:
            reason = REASONS.get((name, title))
            unexplained += reason is None
            differing.add(name)
            print(f"{name}, {title}: {reason or 'UNEXPLAINED'}")
            a, b = theirs.get("text", theirs.get("error")), ours.get("text", ours.get("error"))
            if arguments.show:
                print(f"--- Jinja2\n{a}\n--- kvant\n{b}\n---")
            else:
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                print(f"  Jinja2: {'text' in theirs} {a[max(0, at - 60) : at + 60]!r}\n  kvant:  {'text' in ours} {b[max(0, at - 60) : at + 60]!r}")
    names = len({name for name, _, _ in todo})
    print(f"{names} templates, {names - len(differing)} equal everywhere; {len(todo)} renderings: {texts} texts equal, {raised} refused by both, {unexplained} unexplained")
    return unexplained > 0


if __name__ == "__main__":
    sys.exit(main())
