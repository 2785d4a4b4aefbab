// The start of the page: joins its parts, and handles the message that is written, keys, and files.

import { properties } from "./api.js";
import { Chat } from "./chat.js";
import { Files } from "./files.js";
import { Follow } from "./follow.js";
import { Messages } from "./messages.js";
import { element } from "./render.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { status } from "./status.js";
import * as store from "./store.js";
import { chooseLanguage, fill, t } from "./words.js";

const $ = (id) => document.getElementById(id);
const DRAFT = "kvant.draft";

/** All conversations, newest first. */
let conversations = [];
/** The conversation on the screen. It is in the list after its first message. */
let current = null;
/** The properties of the server, or null. */
let server = null;

const settings = new Settings((names) => {
  if (names.includes("language")) translate();
  if (names.includes("theme")) paint();
  if (names.includes("key")) readServer();
});

const chat = new Chat(
  () => settings.values,
  () => server,
  {
    changed(conversation) {
      if (!conversations.includes(conversation)) store.keepCurrent(conversation.id);
      conversations = [conversation, ...conversations.filter((other) => other !== conversation)];
      if (conversation === current) messages.sync();
      showAll();
    },
    grew(conversation, message) {
      if (conversation !== current) return;
      messages.grew(message);
      showStatus();
    },
    ended(conversation, message) {
      if (conversation === current) {
        messages.sync();
        $("announce").textContent = messages.announcement(message);
      }
      if (message.error?.code === "needsKey") askKey();
      showAll();
      readServer();
    },
  },
);

const follow = new Follow($("scroll"), $("to-end"));

const messages = new Messages($("messages"), follow, {
  isRunning: () => chat.isRunning(current),
  regenerate() {
    follow.toEnd();
    chat.regenerate(current);
    $("input").focus();
  },
  edit(id, text, files) {
    follow.toEnd();
    chat.edit(current, id, text, files);
    $("input").focus();
  },
  say,
});

const files = new Files($("files"), (text) => {
  if (text) say(text);
  showSend();
});

const sidebar = new Sidebar({
  add,
  choose(conversation) {
    choose(conversation);
    sidebar.drawer(false);
    $("input").focus();
  },
  rename(conversation, title) {
    conversation.title = title;
    chat.keep(conversation);
    showAll();
  },
  async remove(conversation) {
    if (!(await ask(t("askDelete", { title: conversation.title })))) return;
    conversation.deleted = true;
    chat.stop(conversation);
    conversations = conversations.filter((other) => other !== conversation);
    store.forget(conversation.id).catch(() => {});
    if (conversation === current) choose(conversations[0] ?? fresh());
    else showAll();
    $("new").focus();
  },
});

function fresh() {
  return { id: store.identifier(), title: "", created: Date.now(), changed: Date.now(), messages: [] };
}

function add() {
  choose(fresh());
  sidebar.drawer(false);
  $("input").focus();
}

function choose(conversation) {
  current = conversation;
  store.keepCurrent(conversations.includes(conversation) ? conversation.id : "");
  messages.show(conversation);
  showAll();
}

/** Asks the user. Returns true after a yes. */
function ask(text) {
  const dialog = $("ask");
  $("ask-text").textContent = text;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answered) => {
    dialog.addEventListener("close", () => answered(dialog.returnValue === "yes"), { once: true });
  });
}

/** Shows a message above the text that is written. An empty text hides it. */
function say(text, ...buttons) {
  const close = element("button", { type: "button", className: "plain small", textContent: t("close") });
  close.addEventListener("click", () => say(""));
  $("notice").replaceChildren(...(text ? [element("p", { textContent: text }), ...buttons, close] : []));
}

function askKey() {
  const open = element("button", { type: "button", className: "small", textContent: t("settings") });
  open.addEventListener("click", () => {
    say("");
    settings.open("key");
  });
  say(t("needsKey"), open);
}

function showSend() {
  const running = chat.isRunning(current);
  const focused = document.activeElement;
  $("send").hidden = running;
  $("stop").hidden = !running;
  if (focused === $("stop") && !running) $("input").focus();
  if (focused === $("send") && running) $("stop").focus();
  $("send").disabled = !$("input").value.trim() && files.files.length === 0;
}

function showStatus() {
  const last = current.messages.findLast((message) => message.role === "assistant");
  const texts = status(server, last, chat.isRunning(current), chat.raw);
  const old = $("status").children;
  // Only texts that change are replaced: this runs with each part of an answer.
  texts.forEach((text, index) => {
    if (!old[index]) $("status").append(element("span", { textContent: text }));
    else if (old[index].textContent !== text) old[index].textContent = text;
  });
  while (old.length > texts.length) old[texts.length].remove();
}

function showAll() {
  sidebar.show(conversations, current, (conversation) => chat.isRunning(conversation));
  const title = current.title || t("newConversation");
  $("title").textContent = title;
  document.title = current.title ? `${current.title} – kvant` : "kvant";
  $("empty").hidden = current.messages.length > 0;
  $("input").placeholder = t(chat.raw ? "rawHint" : "messageHint");
  showSend();
  showStatus();
}

function paint() {
  const { theme } = settings.values;
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function translate() {
  chooseLanguage(settings.values.language);
  fill(document);
  if (!current) return;
  messages.show(current);
  files.show();
  showAll();
}

/** Reads the properties of the server. While it loads its model, tries again. */
async function readServer() {
  try {
    server = await properties(settings.values.key);
  } catch (error) {
    if (error.code === "needsKey") askKey();
    if (error.code === "loading") setTimeout(readServer, 2000);
  }
  showAll();
}

function growInput() {
  $("input").parentElement.dataset.value = $("input").value;
  showSend();
}

function send() {
  // Spaces before the first line belong to code.
  const text = $("input").value.trimEnd().replace(/^\n+/, "");
  if (chat.isRunning(current) || (!text && files.files.length === 0)) return;
  const added = files.files;
  $("input").value = "";
  files.set([]);
  say("");
  keepDraft();
  growInput();
  follow.toEnd();
  chat.send(current, text, added);
}

function keepDraft() {
  try {
    sessionStorage.setItem(DRAFT, $("input").value);
  } catch {
    // Storage is refused, or the text is too long for it.
  }
}

function listenToComposer() {
  $("input").addEventListener("input", growInput);
  $("input").addEventListener("keydown", (event) => {
    // During the composition of a Korean syllable, Enter ends the syllable. Safari tells it by the key code alone.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key !== "Enter" || event.shiftKey || event.altKey) return;
    event.preventDefault();
    send();
  });
  $("send").addEventListener("click", send);
  $("stop").addEventListener("click", () => chat.stop(current));
  $("attach").addEventListener("click", () => $("choose").click());
  $("choose").addEventListener("change", async () => {
    await files.add([...$("choose").files]);
    $("choose").value = "";
    $("input").focus();
  });
}

function listenToPage() {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return;
    if ((event.ctrlKey || event.metaKey) && event.shiftKey && event.code === "KeyO") {
      event.preventDefault();
      if (!document.querySelector("dialog[open]")) add();
    } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      if (sidebar.isOpen) sidebar.drawer(false);
      else chat.stop(current);
    }
  });
  $("theme").addEventListener("click", () => {
    const dark = settings.values.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    settings.set({ theme: dark === "dark" ? "light" : "dark" });
  });
  for (const [id, answer] of [
    ["ask-yes", "yes"],
    ["ask-no", ""],
  ]) {
    $(id).addEventListener("click", () => $("ask").close(answer));
  }
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  let inside = 0;
  const mark = (depth) => {
    inside = Math.max(0, depth);
    document.body.classList.toggle("dropping", inside > 0);
  };
  document.addEventListener("dragenter", (event) => carriesFiles(event) && mark(inside + 1));
  document.addEventListener("dragleave", (event) => carriesFiles(event) && mark(inside - 1));
  document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    mark(0);
    files.add([...event.dataTransfer.files]);
    $("input").focus();
  });
  // The page may end without a further event: phones end pages in the background.
  for (const name of ["pagehide", "visibilitychange"]) {
    window.addEventListener(name, () => {
      keepDraft();
      chat.keepRunning(conversations, name === "pagehide");
    });
  }
}

async function start() {
  paint();
  translate();
  listenToComposer();
  listenToPage();
  files.show();
  try {
    conversations = await store.open();
  } catch {
    say(t("noStore"));
  }
  const wanted = store.readCurrent();
  choose(conversations.find(({ id }) => id === wanted) ?? (wanted === "" ? fresh() : conversations[0]) ?? fresh());
  try {
    $("input").value = sessionStorage.getItem(DRAFT) ?? "";
  } catch {
    // Storage is refused.
  }
  growInput();
  document.body.dataset.ready = "yes";
  await readServer();
}

start();
