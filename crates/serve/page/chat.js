// Answers: which request belongs to a conversation, and how its parts become messages. There is no DOM here.

import { RequestError, answer } from "./api.js";
import { withFiles } from "./files.js";
import { identifier, keep, keepPartial } from "./store.js";

/** Time between two writes of an answer that comes, in milliseconds. */
const KEEP_EVERY = 400;
/** Limit of a raw completion without one in the settings. A model without a template seldom ends by itself. */
const RAW_TOKENS = 512;
const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

function title(text, files) {
  const line = text.trim().split("\n")[0] || files[0]?.name || "";
  return line.length > 80 ? `${line.slice(0, 77).trimEnd()}…` : line;
}

export class Chat {
  /**
   * `settings()` gives the settings and `server()` the properties. `hooks`: `changed(conversation)` after messages came
   * or went, `grew(conversation, message)` after new text, `ended(conversation, message)`.
   */
  constructor(settings, server, hooks) {
    this.settings = settings;
    this.server = server;
    this.hooks = hooks;
    this.runs = new Map();
    this.refusedChat = false;
  }

  /** True if the model has no chat template. */
  get raw() {
    return this.refusedChat || this.server()?.chat_template === "";
  }

  isRunning(conversation) {
    return this.runs.has(conversation?.id);
  }

  stop(conversation) {
    this.runs.get(conversation?.id)?.abort();
  }

  /** Adds a message of the user, and answers it. */
  send(conversation, text, files) {
    conversation.title ||= title(text, files);
    conversation.messages.push({ id: identifier(), role: "user", content: text, files, state: "done" });
    return this.run(conversation);
  }

  /** Replaces a message of the user. What follows it is dropped. */
  edit(conversation, id, text, files) {
    const index = conversation.messages.findIndex((message) => message.id === id);
    if (index < 0) return undefined;
    this.stop(conversation);
    conversation.messages.splice(index);
    return this.send(conversation, text, files);
  }

  /** Answers the last message of the user again. */
  regenerate(conversation) {
    this.stop(conversation);
    while (conversation.messages.at(-1)?.role === "assistant") conversation.messages.pop();
    return conversation.messages.length ? this.run(conversation) : undefined;
  }

  /** Returns the path and the body of the request for all messages but the last. */
  request(conversation) {
    const settings = this.settings();
    const body = {};
    for (const name of SAMPLING) if (settings[name] !== null) body[name] = settings[name];
    const model = this.server()?.model_alias;
    if (model) body.model = model;
    const messages = conversation.messages
      .slice(0, -1)
      .map(({ role, content, files }) => ({ role, content: withFiles(content, files) }));
    const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
    if (!this.raw) return { path: "v1/chat/completions", body: { ...body, messages: [...system, ...messages] } };
    // The model continues one text. The user's parts begin on lines of their own.
    let prompt = system.map(({ content }) => `${content}\n`).join("");
    for (const { role, content } of messages) {
      if (role === "user" && prompt && !prompt.endsWith("\n")) prompt += "\n";
      prompt += content;
    }
    return { path: "v1/completions", body: { max_tokens: RAW_TOKENS, ...body, prompt } };
  }

  async run(conversation) {
    const control = new AbortController();
    const message = { id: identifier(), role: "assistant", content: "", reasoning: "", state: "open" };
    conversation.messages.push(message);
    conversation.changed = Date.now();
    this.runs.set(conversation.id, control);
    this.hooks.changed(conversation);
    this.keep(conversation);
    let kept = Date.now();
    const receive = (part) => {
      // After a stop, parts that were under way are dropped.
      if (control.signal.aborted) return;
      message.content += part.text;
      message.reasoning += part.reasoning;
      if (part.finish) message.finish = part.finish;
      if (part.timings) {
        message.rate = part.timings.predicted_per_second;
        message.tokens = part.timings.predicted_n;
        message.read = part.timings.prompt_n;
        message.reused = part.timings.cache_n;
      }
      if (part.usage) {
        message.total = part.usage.total_tokens;
        message.tokens ??= part.usage.completion_tokens;
      }
      if (part.text || part.reasoning) this.hooks.grew(conversation, message);
      if (Date.now() - kept > KEEP_EVERY) {
        kept = Date.now();
        this.keep(conversation);
      }
    };
    const ask = () => {
      const { path, body } = this.request(conversation);
      message.raw = this.raw;
      return answer(path, body, this.settings().key, control.signal, receive);
    };
    try {
      await ask().catch((error) => {
        if (error.code !== "noTemplate" || this.raw) throw error;
        this.refusedChat = true;
        return ask();
      });
      message.state = "done";
    } catch (error) {
      if (control.signal.aborted) {
        message.state = "stopped";
      } else {
        const known = error instanceof RequestError;
        if (!known) console.error(error);
        message.state = "failed";
        message.error = known
          ? {
              code: error.code === "noTemplate" ? "refused" : error.code,
              values: { ...error.values, text: error.text },
            }
          : { code: "broken", values: {} };
      }
    }
    if (this.runs.get(conversation.id) === control) this.runs.delete(conversation.id);
    // The message may be gone: the user edited an earlier one.
    if (!conversation.messages.includes(message) || conversation.deleted) return;
    this.keep(conversation);
    this.hooks.ended(conversation, message);
  }

  /** Keeps a conversation. A failure is shown once, at the start of the page. */
  keep(conversation) {
    if (!conversation.deleted) keep(conversation).catch(() => {});
  }

  /** Keeps all answers that come. `ends` tells that the page ends now. */
  keepRunning(conversations, ends) {
    for (const conversation of conversations) {
      if (!this.isRunning(conversation)) continue;
      if (ends) keepPartial(conversation);
      else this.keep(conversation);
    }
  }
}
