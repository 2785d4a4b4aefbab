// The line below the message: speed, context, memory.

import { number, size, t } from "./words.js";

function memory(server) {
  const parts = [];
  const { weights_bytes: weights, weights_bytes_16bit: whole, state_bytes: states, state_limit_bytes: limit } = server;
  if (Number.isFinite(weights)) {
    const values = { size: size(weights), whole: Number.isFinite(whole) ? size(whole) : "" };
    parts.push(t(values.whole ? "weightsOf" : "weights", values));
  }
  if (Number.isFinite(states)) {
    const values = { size: size(states), limit: Number.isFinite(limit) ? size(limit) : "" };
    parts.push(t(values.limit ? "statesOf" : "states", values));
  }
  return parts.join(", ");
}

/** Returns the parts of the line. `server` are the properties, `message` is the last answer. */
export function status(server, message, running, raw) {
  const parts = [];
  const context = server?.default_generation_settings?.n_ctx;
  if (server?.model_alias) parts.push(server.model_alias);
  if (raw) parts.push(t("rawMode"));
  if (running) parts.push(t(message?.content || message?.reasoning ? "answering" : "reading"));
  if (message?.rate) parts.push(t("speed", { rate: number(message.rate, 1) }));
  if (message?.total && context) parts.push(t("used", { used: number(message.total), context: number(context) }));
  else if (context) parts.push(t("context", { context: number(context) }));
  if (Number.isFinite(message?.read) && Number.isFinite(message?.reused)) {
    parts.push(
      t("prompt", { read: number(message.read), reused: number(message.reused), cached: number(message.reused) }),
    );
  }
  if (server) parts.push(memory(server));
  return parts.filter(Boolean);
}
