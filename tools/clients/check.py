#!/usr/bin/env python3
"""Talks to a running `kvant serve` with the unmodified clients of others.

    python tools/clients/check.py http://127.0.0.1:8080 [--clients openai,anthropic,ollama]

    pip install openai anthropic ollama

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

    common = {"model": model, "input": "안녕하세요! Say hello.", "temperature": 0, "max_output_tokens": 16}
    response = client.responses.create(**common, instructions="Be short.")
    check("openai: response", response.status in ("completed", "incomplete") and response.usage.output_tokens > 0, response)
    events = list(client.responses.create(**common, instructions="Be short.", stream=True))
    pieces = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    check("openai: streamed response", pieces == response.output_text == events[-1].response.output_text, (pieces, response))
    check("openai: events have numbers", [event.sequence_number for event in events] == list(range(len(events))), events)
    with client.responses.stream(**common, instructions="Be short.") as stream:
        last = [event for event in stream][-1]
    check("openai: stream of the library", last.response.output_text == pieces, last)
    common["max_output_tokens"] = 120
    form = {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}}
    check("openai: response with JSON Schema", valid(client.responses.create(**common, text=form).output_text))
    tool = {"type": "function", "strict": True, **TOOL["function"]}
    kinds = [tool, {"type": "web_search"}]
    called = client.responses.create(**common, tools=kinds, tool_choice="required", parallel_tool_calls=False)
    call = called.output[-1]
    check("openai: response with a tool", call.type == "function_call" and valid(call.arguments), called)
    result = [{"role": "user", "content": "hello"}, call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "done"}]
    answer = client.responses.create(**{**common, "input": result, "max_output_tokens": 8}, tools=[tool])
    check("openai: response after a tool", answer.status in ("completed", "incomplete"), answer)
    try:
        client.responses.create(**common, previous_response_id="resp_1")
        check("openai: an earlier response is refused", False)
    except openai.APIStatusError as error:
        check("openai: an earlier response is refused", "previous_response_id" in error.body["message"], error)

    common = {"model": model, "messages": MESSAGES, "max_completion_tokens": 16, "temperature": 0}
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


def anthropic_client(url):
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    common = {"model": "any", "max_tokens": 16, "messages": MESSAGES, "system": "Be short.", "extra_body": {"temperature": 0}}
    whole = client.messages.create(**common)
    text = "".join(block.text for block in whole.content if block.type == "text")
    check("anthropic: message", whole.stop_reason in ("end_turn", "max_tokens") and whole.usage.output_tokens > 0, whole)
    with client.messages.stream(**common) as stream:
        pieces = "".join(stream.text_stream)
        last = stream.get_final_message()
    check("anthropic: stream equals message", pieces == text and last.stop_reason == whole.stop_reason, (pieces, text))
    check("anthropic: cached tokens", last.usage.cache_read_input_tokens > 0, last.usage)
    counted = client.messages.count_tokens(model="any", messages=MESSAGES, system="Be short.")
    check("anthropic: tokens are counted", counted.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0), counted)

    form = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    formed = client.messages.create(**{**common, "max_tokens": 120, "extra_body": form})
    check("anthropic: JSON Schema", valid(formed.content[0].text), formed)

    tool = {"name": "register", "description": "Registers a person.", "input_schema": SCHEMA}
    choice = {"type": "tool", "name": "register", "disable_parallel_tool_use": True}
    common = {**common, "max_tokens": 120, "tools": [tool], "tool_choice": choice}
    called = client.messages.create(**common)
    use = called.content[-1]
    check("anthropic: tool", called.stop_reason == "tool_use" and use.type == "tool_use" and valid(json.dumps(use.input)), called)
    with client.messages.stream(**common) as stream:
        streamed = stream.get_final_message()
    check("anthropic: streamed tool", streamed.content[-1].input == use.input, streamed)
    history = MESSAGES + [
        {"role": "assistant", "content": [use.model_dump(exclude_none=True)]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "done"}]},
    ]
    answer = client.messages.create(**{**common, "messages": history, "max_tokens": 8, "tool_choice": {"type": "auto"}})
    check("anthropic: result of a tool", answer.stop_reason is not None, answer)
    try:
        client.messages.create(**{**common, "messages": []})
        check("anthropic: errors", False)
    except anthropic.BadRequestError as error:
        check("anthropic: errors", error.body["error"]["type"] == "invalid_request_error", error.body)


def ollama_client(url):
    import ollama

    client = ollama.Client(host=url)
    model = client.list().models[0].model
    shown = client.show(model)
    check("ollama: models", "tools" in shown.capabilities and client.ps().models[0].model == model, shown)
    options = {"temperature": 0, "num_predict": 16}
    whole = client.chat(model=model, messages=MESSAGES, options=options)
    check("ollama: chat", whole.done and whole.eval_count > 0, whole)
    stream = list(client.chat(model=model, messages=MESSAGES, options=options, stream=True))
    pieces = "".join(part.message.content or "" for part in stream)
    check("ollama: stream equals chat", pieces == whole.message.content and stream[-1].done, (pieces, whole))
    generated = client.generate(model=model, prompt=MESSAGES[0]["content"], options=options)
    check("ollama: generate", generated.response == whole.message.content, (generated, whole))
    raw = client.generate(model=model, prompt="Once upon a time", raw=True, options=options)
    check("ollama: raw", raw.prompt_eval_count < whole.prompt_eval_count, raw)
    options["num_predict"] = 120
    shaped = client.chat(model=model, messages=MESSAGES, options=options, format=SCHEMA)
    check("ollama: JSON Schema", valid(shaped.message.content), shaped)
    called = client.chat(model=model, messages=MESSAGES, options={**options, "num_predict": 8}, tools=[TOOL])
    check("ollama: tools", called.done_reason in ("stop", "length"), called)
    try:
        client.show("missing")
        check("ollama: errors", False)
    except ollama.ResponseError as error:
        check("ollama: errors", error.status_code == 404, error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", default="openai,anthropic,ollama")
    given = parser.parse_args()
    known = {"openai": openai_client, "anthropic": anthropic_client, "ollama": ollama_client}
    for name in given.clients.split(","):
        known[name](given.url.rstrip("/"))


if __name__ == "__main__":
    main()
