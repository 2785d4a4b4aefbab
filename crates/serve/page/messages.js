// The messages of a conversation on the screen.

import { Files } from "./files.js";
import { Text, element, icon } from "./render.js";
import { number, size, t } from "./words.js";

/** Longest text that a screen reader is given at once. */
const LONGEST_ANNOUNCEMENT = 4000;

function button(name, key, action, act) {
  const node = element(
    "button",
    { type: "button", className: "plain icon-only small", label: t(key), data: { action } },
    icon(name),
  );
  node.addEventListener("click", () => act(node));
  return node;
}

/** Copies a text. Pages without TLS have no clipboard, so that there is a second way. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea", { value: text, className: "unseen" });
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}

export class Messages {
  /** `acts`: `regenerate()`, `edit(id, text, files)`, `isRunning()`, `say(text)`. */
  constructor(root, follow, acts) {
    this.root = root;
    this.follow = follow;
    this.acts = acts;
    this.conversation = null;
    this.entries = new Map();
    this.waiting = null;
    root.addEventListener("click", (event) => this.copyCode(event));
  }

  /** Shows another conversation, or the same one in another language. */
  show(conversation) {
    this.conversation = conversation;
    this.entries.clear();
    this.root.replaceChildren();
    this.sync();
    this.follow.toEnd();
  }

  /** Brings the screen in line with the messages. */
  sync() {
    const messages = this.conversation?.messages ?? [];
    const ids = new Set(messages.map((message) => message.id));
    for (const [id, entry] of this.entries) {
      if (ids.has(id)) continue;
      entry.root.remove();
      this.entries.delete(id);
    }
    for (const message of messages) {
      if (!this.entries.has(message.id)) {
        const entry = this.make(message);
        this.entries.set(message.id, entry);
        this.root.append(entry.root);
      }
      this.refresh(message);
    }
    this.follow.grew();
  }

  make(message) {
    const user = message.role === "user";
    const content = element("div", { className: "content" });
    const foot = element("div", { className: "foot" });
    const root = element(
      "article",
      { className: `message ${user ? "user" : "answer"}`, label: t(user ? "you" : "model") },
      content,
      foot,
    );
    const entry = { root, content, foot };
    if (user) {
      this.fillUser(entry, message);
    } else {
      const details = element("details", { hidden: true }, element("summary", { textContent: t("reasoning") }));
      const reasoning = element("div", { className: "text" });
      const text = element("div", { className: "text" });
      details.append(reasoning);
      content.append(details, text);
      Object.assign(entry, { details, plain: text, reasoning: new Text(reasoning), text: new Text(text) });
    }
    return entry;
  }

  fillUser(entry, message) {
    const files = (message.files ?? []).map((file) => {
      const summary = element(
        "summary",
        {},
        element("span", { className: "file-name", textContent: file.name }),
        ` ${size(new Blob([file.text]).size)}`,
      );
      return element(
        "details",
        { className: "file" },
        summary,
        element("pre", { tabIndex: 0, textContent: file.text }),
      );
    });
    const text = element("div", { className: "said", textContent: message.content, hidden: !message.content });
    entry.content.replaceChildren(text, ...files);
  }

  /** Shows the text, the state and the buttons of a message. */
  refresh(message) {
    const entry = this.entries.get(message.id);
    if (!entry || entry.editing) return;
    const open = message.state === "open";
    if (message.role === "assistant") {
      this.fillAnswer(entry, message);
      entry.root.setAttribute("aria-busy", String(open));
    }
    const running = this.acts.isRunning();
    const last = this.conversation.messages.at(-1) === message;
    const state = `${message.state} ${running} ${last} ${message.rate} ${message.total}`;
    if (entry.state === state) return;
    entry.state = state;
    const parts = [];
    if (open) parts.push(element("span", { className: "pulse" }));
    if (message.state === "failed") {
      parts.push(element("p", { className: "error", textContent: t(message.error.code, message.error.values) }));
    }
    if (message.state === "stopped") parts.push(element("span", { className: "note", textContent: t("stopped") }));
    if (message.finish === "length") parts.push(element("span", { className: "note", textContent: t("length") }));
    const copies = button("copy", message.role === "user" ? "copyMessage" : "copyAnswer", "copy", (node) =>
      this.copy(node, message.content),
    );
    if (message.role === "user") {
      if (!running) parts.push(button("edit", "edit", "edit", () => this.edit(entry, message)));
      parts.push(copies);
    } else if (!open) {
      if (message.content) parts.push(copies);
      if (last && !running) parts.push(button("redo", "regenerate", "regenerate", () => this.acts.regenerate()));
      if (message.rate) {
        const speed = t("speedOf", { tokens: number(message.tokens), rate: number(message.rate, 1) });
        parts.push(element("span", { className: "note", textContent: speed }));
      }
    }
    entry.foot.replaceChildren(...parts);
  }

  fillAnswer(entry, message) {
    const open = message.state === "open";
    entry.details.hidden = !message.reasoning;
    if (message.reasoning) entry.reasoning.update(message.reasoning, open && !message.content);
    // A raw completion is no Markdown: its spaces and lines matter.
    if (message.raw) {
      entry.plain.classList.add("said");
      entry.plain.textContent = message.content;
    } else {
      entry.text.update(message.content, open);
    }
  }

  /** Shows new text of an answer soon: with the next frame, or later if showing takes long. */
  grew(message) {
    if (this.waiting) return;
    const show = () => {
      this.waiting = null;
      if (!this.entries.has(message.id) || message.state !== "open") return;
      const start = performance.now();
      this.refresh(message);
      this.follow.grew();
      this.pause = 3 * (performance.now() - start);
    };
    this.waiting = true;
    if (this.pause > 12) setTimeout(show, this.pause);
    else requestAnimationFrame(show);
  }

  /** The text of an answer for a screen reader. */
  announcement(message) {
    if (message.state === "failed") return t(message.error.code, message.error.values);
    const text = this.entries.get(message.id)?.plain.innerText ?? message.content;
    return t("finished", { text: text.slice(0, LONGEST_ANNOUNCEMENT) });
  }

  edit(entry, message) {
    const area = element("textarea", { value: message.content, label: t("message") });
    const grow = element("div", { className: "grow" }, area);
    const list = element("ul", { className: "files", label: t("files") });
    const files = new Files(list, this.acts.say);
    files.set(message.files ?? []);
    const cancel = element("button", { type: "button", textContent: t("cancel") });
    const send = element("button", {
      type: "button",
      className: "main",
      textContent: t("send"),
      data: { action: "send" },
    });
    const end = () => {
      entry.editing = null;
      entry.root.classList.remove("editing");
      entry.state = "";
      this.fillUser(entry, message);
      this.refresh(message);
      entry.foot.querySelector("[data-action=edit]")?.focus();
    };
    const done = () => {
      if (!area.value.trim() && !files.files.length) return;
      entry.editing = null;
      this.acts.edit(message.id, area.value.trimEnd(), files.files);
    };
    area.addEventListener("input", () => (grow.dataset.value = area.value));
    area.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        done();
      }
    });
    cancel.addEventListener("click", end);
    send.addEventListener("click", done);
    entry.editing = files;
    entry.root.classList.add("editing");
    grow.dataset.value = area.value;
    const later = this.conversation.messages.at(-1) !== message;
    const hint = element("span", { className: "note", textContent: later ? t("editHint") : "" });
    entry.content.replaceChildren(list, grow);
    entry.foot.replaceChildren(hint, cancel, send);
    entry.root.scrollIntoView({ block: "nearest" });
    area.focus({ preventScroll: true });
    area.setSelectionRange(area.value.length, area.value.length);
  }

  async copy(node, text) {
    if (!(await copy(text))) {
      this.acts.say(t("copyFailed"));
      return;
    }
    const old = [...node.childNodes];
    if (node.dataset.done) return;
    node.dataset.done = "yes";
    node.replaceChildren(node.dataset.copy ? t("copied") : icon("check"));
    setTimeout(() => {
      delete node.dataset.done;
      node.replaceChildren(...old);
    }, 1500);
  }

  copyCode(event) {
    const node = event.target.closest?.("[data-copy]");
    if (node) this.copy(node, node.closest(".code").querySelector("code").textContent);
  }
}
