#!/usr/bin/env python3
"""Talks to a running `kvant serve` with the unmodified clients of others.

    python tools/clients/check.py http://127.0.0.1:8080 [--clients openai]

    pip install openai

The model needs a chat template. Texts of answers are not judged, only their form. Prints a line for each check, and ends
with status 1 at the first check that fails.
"""

import argparse
import json

MESSAGES = [{"role": "user", "content": "안녕하세요! Say hello."}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "register", "description": "Registers a person.", "parameters": SCHEMA}}


def check(name, holds, shown=""):
    print(f"{'ok  ' if holds else 'FAIL'} {name}", flush=True)
    if not holds:
        raise SystemExit(f"{name}: {shown}")


def valid(text):
    value = json.loads(text)
    return set(value) == {"name", "age"} and isinstance(value["name"], str) and isinstance(value["age"], int)


def openai_client(url):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    chat = client.chat.completions
    common = {"model": model, "messages": MESSAGES, "max_completion_tokens": 16, "temperature": 0}

    whole = chat.create(**common)
    text = whole.choices[0].message.content
    check("openai: chat", isinstance(text, str) and whole.usage.total_tokens > 0, whole)
    check("openai: reason of the end", whole.choices[0].finish_reason in ("stop", "length"), whole)

    stream = list(chat.create(**common, stream=True, stream_options={"include_usage": True}))
    pieces = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    check("openai: stream equals chat", pieces == text, (pieces, text))
    check("openai: usage at the end", stream[-1].usage.total_tokens == whole.usage.total_tokens, stream[-1])
    cached = stream[-1].usage.prompt_tokens_details.cached_tokens
    check("openai: cached tokens", cached == whole.usage.prompt_tokens - 1, stream[-1])

    scored = chat.create(**common, logprobs=True, top_logprobs=3)
    tokens = scored.choices[0].logprobs.content
    top = all(len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob == t.logprob for t in tokens)
    check("openai: log probabilities", top and bytes(b for t in tokens for b in t.bytes).decode(errors="replace") == text, scored)

    several = chat.create(**{**common, "temperature": 1.0}, n=3, seed=7)
    check("openai: several answers", [choice.index for choice in several.choices] == [0, 1, 2], several)

    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    common["max_completion_tokens"] = 120
    shaped = chat.create(**common, response_format=form)
    check("openai: JSON Schema", valid(shaped.choices[0].message.content), shaped)

    forced = chat.create(**common, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    calls = forced.choices[0].message.tool_calls
    check("openai: tool", len(calls) == 1 and calls[0].function.name == "register" and valid(calls[0].function.arguments), forced)
    check("openai: tool is the reason of the end", forced.choices[0].finish_reason == "tool_calls", forced)

    streamed = list(chat.create(**common, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, stream=True))
    deltas = [call for chunk in streamed if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    arguments = "".join(delta.function.arguments or "" for delta in deltas)
    check("openai: streamed tool", arguments == calls[0].function.arguments and deltas[0].function.name == "register", deltas)

    history = MESSAGES + [
        {"role": "assistant", "content": None, "tool_calls": [calls[0].model_dump()]},
        {"role": "tool", "tool_call_id": calls[0].id, "content": "done"},
    ]
    answer = chat.create(**{**common, "messages": history, "max_completion_tokens": 8}, tools=[TOOL])
    check("openai: result of a tool", answer.choices[0].finish_reason is not None, answer)

    scored = client.completions.create(model=model, prompt="Once upon a time", max_tokens=1, echo=True, logprobs=1, temperature=0)
    values = scored.choices[0].logprobs
    same = len(values.tokens) == len(values.token_logprobs) == len(values.top_logprobs) == len(values.text_offset)
    check("openai: log probabilities of a prompt", same and values.token_logprobs[0] is None, scored)

    for kind, arguments in [
        (openai.BadRequestError, {"temperature": -1}),
        (openai.BadRequestError, {"messages": []}),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "word " * 50_000}]}),
    ]:
        try:
            chat.create(**{**common, **arguments})
            check("openai: errors", False, arguments)
        except kind as error:
            check(f"openai: {kind.__name__}", bool(error.body["message"]), error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", default="openai")
    given = parser.parse_args()
    known = {"openai": openai_client}
    for name in given.clients.split(","):
        known[name](given.url.rstrip("/"))


if __name__ == "__main__":
    main()
