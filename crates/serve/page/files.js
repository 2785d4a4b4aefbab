// Text files of a message: reading them, the list of them, and their form in the text for the model.

import { element, icon } from "./render.js";
import { size, t } from "./words.js";

const LARGEST_BYTES = 256 * 1024;
const MOST_FILES = 20;

/** Reads one file. Returns { name, text }, or throws the key of a text of words.js. */
async function read(file) {
  if (file.size > LARGEST_BYTES) throw "fileSize";
  const bytes = await file.arrayBuffer().catch(() => {
    throw "fileRead";
  });
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw "fileText";
  }
  // A text has no NUL; files of programs do.
  if (text.includes("\0")) throw "fileText";
  const name = file.name.replace(/[\p{C}`]/gu, "").slice(0, 200) || "file";
  return { name, text: text.replaceAll("\r\n", "\n") };
}

/** Returns the text of a message with its files as fenced blocks. */
export function withFiles(text, files = []) {
  const parts = files.map(({ name, text }) => {
    const runs = text.match(/`+/g) ?? [];
    const longest = runs.reduce((most, run) => Math.max(most, run.length), 2);
    const fence = "`".repeat(longest + 1);
    const language = /\.([a-z0-9+#]{1,12})$/i.exec(name)?.[1].toLowerCase() ?? "";
    return `${name}\n${fence}${language}\n${text.replace(/\n$/, "")}\n${fence}`;
  });
  return [text, ...parts].filter(Boolean).join("\n\n");
}

/** The files of a message that is written. */
export class Files {
  /** `list` is the element that shows them; `say` shows a message to the user. */
  constructor(list, say) {
    this.list = list;
    this.say = say;
    this.files = [];
  }

  set(files) {
    this.files = [...files];
    this.show();
  }

  /** Adds files that the user chose. Those that are no text are refused with a message. */
  async add(chosen) {
    const refused = [];
    for (const file of chosen) {
      if (this.files.length >= MOST_FILES) {
        refused.push(t("fileCount", { count: MOST_FILES }));
        break;
      }
      try {
        this.files.push(await read(file));
      } catch (key) {
        refused.push(t(key, { name: file.name }));
      }
    }
    this.show();
    this.say(refused.join("\n"));
  }

  show() {
    const entry = (file) => {
      const remove = element(
        "button",
        { type: "button", className: "plain icon-only small", label: t("removeFile", { name: file.name }) },
        icon("close"),
      );
      remove.addEventListener("click", () => this.set(this.files.filter((other) => other !== file)));
      const bytes = new Blob([file.text]).size;
      return element(
        "li",
        {},
        element("span", { className: "file-name", textContent: file.name }),
        element("span", { className: "file-size", textContent: size(bytes) }),
        remove,
      );
    };
    this.list.replaceChildren(...this.files.map(entry));
    this.list.hidden = this.files.length === 0;
  }
}
