// The list of conversations, and the drawer that holds it on narrow screens.

import { element, icon } from "./render.js";
import { t } from "./words.js";

const $ = (id) => document.getElementById(id);

export class Sidebar {
  /** `acts`: `choose(conversation)`, `rename(conversation, title)`, `remove(conversation)`, `add()`. */
  constructor(acts) {
    this.acts = acts;
    this.list = $("list").querySelector("ul");
    this.narrow = matchMedia("(max-width: 760px)");
    $("new").addEventListener("click", () => acts.add());
    $("menu").addEventListener("click", () => this.drawer(true));
    $("side-close").addEventListener("click", () => this.drawer(false));
    $("shade").addEventListener("click", () => this.drawer(false));
    this.narrow.addEventListener("change", () => this.drawer(false));
  }

  get isOpen() {
    return document.body.classList.contains("drawer");
  }

  /** Opens or closes the drawer. The rest of the page is out of reach while it is open. */
  drawer(open) {
    if (open === this.isOpen) return;
    document.body.classList.toggle("drawer", open);
    $("body").inert = open;
    $("menu").setAttribute("aria-expanded", String(open));
    (open ? $("side-close") : $("menu")).focus();
  }

  show(conversations, current, isRunning) {
    // A name that is edited stays on the screen. The list is shown again when it ends.
    if (this.renames) return;
    const focused = document.activeElement;
    const entry = this.list.contains(focused) ? focused.closest("li") : null;
    const place = entry && [...entry.children].indexOf(focused);
    const entries = conversations.map((conversation) =>
      this.entry(conversation, conversation === current, isRunning(conversation)),
    );
    this.list.replaceChildren(...entries);
    if (entry) this.list.querySelector(`[data-id="${entry.dataset.id}"]`)?.children[place]?.focus();
  }

  entry(conversation, isCurrent, isRunning) {
    const title = conversation.title || t("newConversation");
    const name = element(
      "button",
      { type: "button", className: "plain name", title },
      element("span", { textContent: title }),
    );
    if (isCurrent) name.setAttribute("aria-current", "true");
    if (isRunning) name.append(element("span", { className: "pulse" }));
    name.addEventListener("click", () => this.acts.choose(conversation));
    const rename = element(
      "button",
      { type: "button", className: "plain icon-only small", label: t("rename", { title }) },
      icon("edit"),
    );
    const remove = element(
      "button",
      { type: "button", className: "plain icon-only small", label: t("remove", { title }) },
      icon("trash"),
    );
    const root = element(
      "li",
      { className: isCurrent ? "current" : "", data: { id: conversation.id } },
      name,
      rename,
      remove,
    );
    rename.addEventListener("click", () => this.rename(root, conversation, title));
    remove.addEventListener("click", () => this.acts.remove(conversation));
    return root;
  }

  rename(root, conversation, title) {
    const input = element("input", { type: "text", value: title, maxLength: 200, label: t("newName") });
    let ended = false;
    const end = (takes) => {
      if (ended) return;
      ended = true;
      this.renames = false;
      const wanted = input.value.trim();
      this.acts.rename(conversation, takes && wanted ? wanted : conversation.title);
      this.list.querySelector(`[data-id="${conversation.id}"] .small`)?.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Escape") event.stopPropagation();
      if (event.key !== "Enter" && event.key !== "Escape") return;
      // The key would press the button that gets the focus.
      event.preventDefault();
      end(event.key === "Enter");
    });
    input.addEventListener("blur", () => end(true));
    this.renames = true;
    root.replaceChildren(input);
    input.focus();
    input.select();
  }
}
