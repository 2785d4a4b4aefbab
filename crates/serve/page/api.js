// Requests to the server: properties, and answers as streams of server-sent events.
// Paths are relative, so that the page also works behind a proxy with a prefix.

/** An error of a request. `code` names a text of words.js; `text` is the server's own message. */
export class RequestError extends Error {
  constructor(code, text = "", values = {}) {
    super(text || code);
    this.code = code;
    this.text = text;
    this.values = values;
  }
}

const KINDS = {
  exceed_context_size_error: "tooLong",
  rate_limit_error: "busy",
  unavailable_error: "loading",
  timeout_error: "timeout",
};

/** Turns the body of an error into a RequestError. */
function refusal(status, error) {
  const text = String(error?.message ?? "");
  if (status === 401) return new RequestError("needsKey", text);
  if (/\/v1\/completions/.test(text)) return new RequestError("noTemplate", text);
  const known = KINDS[error?.type];
  if (known === "tooLong" && !(error.n_prompt_tokens && error.n_ctx)) return new RequestError("refused", text);
  if (known) return new RequestError(known, text, { tokens: error.n_prompt_tokens, context: error.n_ctx });
  return new RequestError(text ? "refused" : "status", text, { status });
}

async function request(path, key, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("unreachable");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw refusal(response.status, body?.error);
}

/** Returns the properties of the server. */
export async function properties(key) {
  const response = await request("props", key);
  return response.json().catch(() => ({}));
}

/** Yields the data of server-sent events. Comments and other fields are left out. */
export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += done ? decoder.decode() + "\n\n" : decoder.decode(value, { stream: true });
      let from = 0;
      for (let end; (end = rest.indexOf("\n", from)) >= 0; from = end + 1) {
        const line = rest.slice(from, rest[end - 1] === "\r" && end > from ? end - 1 : end);
        if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
      rest = rest.slice(from);
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Sends a request and calls `receive` with each part of the answer: { text, reasoning, finish, timings, usage }.
 * Ends when the answer has ended. Throws a RequestError, or an AbortError after `signal`.
 */
export async function answer(path, body, key, signal, receive) {
  const response = await request(path, key, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let ended = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const part = JSON.parse(data);
      if (part.error) throw refusal(part.error.code ?? 500, part.error);
      const choice = part.choices?.[0];
      ended ||= Boolean(choice?.finish_reason);
      receive({
        text: choice?.delta?.content ?? choice?.text ?? "",
        reasoning: choice?.delta?.reasoning_content ?? "",
        finish: choice?.finish_reason ?? null,
        timings: part.timings,
        usage: part.usage,
      });
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof RequestError) throw error;
    throw new RequestError(error instanceof SyntaxError ? "unreadable" : "broken");
  }
  if (!ended) throw new RequestError("broken");
}
