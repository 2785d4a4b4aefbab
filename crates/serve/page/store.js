// Conversations in IndexedDB, one record each; settings in localStorage.
//
// A conversation: { id, title, created, changed, messages }.
// A message: { id, role, content, files?, reasoning?, state, error?, finish?, rate?, tokens?, total?, raw? }.
// `state` is "done", "open" (the answer comes), "stopped" or "failed".

const NAME = "kvant";
const TABLE = "conversations";
const PARTIAL = "kvant.partial.";

let base = null;

/** Returns a new id. `crypto.randomUUID` is absent on pages without TLS, so that it is not used. */
export function identifier() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function finished(request) {
  return new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}

/** Opens the store and returns all conversations, newest first. Throws if the browser refuses storage. */
export async function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  base = await finished(request);
  base.onversionchange = () => base.close();
  const all = await finished(base.transaction(TABLE).objectStore(TABLE).getAll());
  for (const conversation of all) {
    takePartial(conversation);
    for (const message of conversation.messages) {
      // The page was closed during this answer.
      if (message.state === "open") message.state = "stopped";
    }
  }
  return all.sort((a, b) => b.changed - a.changed);
}

/**
 * Keeps an answer that comes, while the page ends. The browser does not finish writes to IndexedDB then; localStorage is
 * written at once.
 */
export function keepPartial(conversation) {
  try {
    localStorage.setItem(PARTIAL + conversation.id, JSON.stringify(conversation.messages.at(-1)));
  } catch {
    // Storage is refused or full. The last regular write remains.
  }
}

/** Completes a conversation with the answer that came while the page ended. */
function takePartial(conversation) {
  try {
    const partial = JSON.parse(localStorage.getItem(PARTIAL + conversation.id));
    localStorage.removeItem(PARTIAL + conversation.id);
    if (!partial) return;
    const index = conversation.messages.findIndex((message) => message.id === partial.id);
    if (index >= 0) conversation.messages[index] = partial;
    else if (conversation.messages.at(-1)?.role === "user") conversation.messages.push(partial);
    else return;
    partial.state = "stopped";
    keep(conversation).catch(() => {});
  } catch {
    // Storage is refused, or its contents are not readable.
  }
}

/** Keeps a conversation. Without a store, it lives as long as the page. */
export async function keep(conversation) {
  if (base) await finished(base.transaction(TABLE, "readwrite").objectStore(TABLE).put(conversation));
}

/** Deletes a conversation. */
export async function forget(id) {
  if (base) await finished(base.transaction(TABLE, "readwrite").objectStore(TABLE).delete(id));
}

const SETTINGS = "kvant.settings";
const KEY = "kvant.key";

export const DEFAULTS = Object.freeze({
  language: "",
  theme: "",
  system: "",
  temperature: null,
  top_p: null,
  top_k: null,
  min_p: null,
  max_tokens: null,
  seed: null,
  key: "",
  remember: false,
});

/** Reads the settings. Values of a wrong type are replaced by the defaults. */
export function readSettings() {
  const settings = { ...DEFAULTS };
  try {
    const kept = JSON.parse(localStorage.getItem(SETTINGS) ?? "{}");
    for (const [name, value] of Object.entries(DEFAULTS)) {
      const fits = value === null ? typeof kept[name] === "number" : typeof kept[name] === typeof value;
      if (fits && name !== "key") settings[name] = kept[name];
    }
    settings.key = (settings.remember ? localStorage : sessionStorage).getItem(KEY) ?? "";
  } catch {
    // Storage is refused, or its contents are not readable.
  }
  return settings;
}

/** Keeps the settings. The API key outlives the tab only if the user wants it. */
export function keepSettings({ key, ...others }) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(others));
    localStorage.removeItem(KEY);
    sessionStorage.removeItem(KEY);
    if (key) (others.remember ? localStorage : sessionStorage).setItem(KEY, key);
  } catch {
    // Storage is refused. The settings live as long as the page.
  }
}

const CURRENT = "kvant.current";

/** The conversation that this tab shows; a new tab begins with that of the last one. */
export function readCurrent() {
  try {
    return sessionStorage.getItem(CURRENT) ?? localStorage.getItem(CURRENT);
  } catch {
    return null;
  }
}

export function keepCurrent(id) {
  try {
    sessionStorage.setItem(CURRENT, id ?? "");
    localStorage.setItem(CURRENT, id ?? "");
  } catch {
    // Storage is refused.
  }
}
