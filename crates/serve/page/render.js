// DOM nodes of Markdown. All text of the model goes through text nodes; no HTML is ever parsed.

import { inline } from "./inline.js";
import { DEEPEST, blocks } from "./markdown.js";
import { t } from "./words.js";

/** Makes an element with properties and children. */
export function element(name, properties = {}, ...children) {
  const { label, data, ...others } = properties;
  const node = Object.assign(document.createElement(name), others);
  if (label) {
    node.setAttribute("aria-label", label);
    if (name === "button") node.title = label;
  }
  Object.assign(node.dataset, data);
  node.append(...children);
  return node;
}

/** Makes one of the icons in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.classList.add("icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

const INLINE = { strong: "strong", emphasis: "em", deleted: "del" };

function plain(nodes) {
  return nodes.map((node) => node.text ?? (node.nodes ? plain(node.nodes) : " ")).join("");
}

function inlineNode(node, linked) {
  if (node.kind === "text") return document.createTextNode(node.text);
  if (node.kind === "code") return element("code", { textContent: node.text });
  if (node.kind === "break") return element("br");
  const name = INLINE[node.kind];
  if (name) return element(name, {}, ...node.nodes.map((inner) => inlineNode(inner, linked)));
  const image = node.kind === "image";
  const children = image
    ? [document.createTextNode(plain(node.nodes) || t("image"))]
    : node.nodes.map((inner) => inlineNode(inner, true));
  if (linked || !node.href) return element("span", {}, ...children);
  // Images are never loaded: they would tell other servers about the user.
  const link = element("a", { href: node.href, target: "_blank", rel: "noopener noreferrer" }, ...children);
  if (image) link.className = "image";
  return link;
}

function inlineNodes(text, open) {
  return inline(text, open).map((node) => inlineNode(node, false));
}

function listItem(item, loose, depth, open) {
  const lines = [...item.lines];
  const task = /^\[([ xX])\][ \t]+/.exec(lines[0]);
  if (task) lines[0] = lines[0].slice(task[0].length);
  const children = [];
  const inner = blocks(lines, open);
  inner.forEach((block, index) => {
    const grows = open && index === inner.length - 1;
    // The text of a tight list has no paragraphs.
    if (block.kind === "paragraph" && !loose) children.push(...inlineNodes(block.text, grows));
    else children.push(blockNode(block, depth + 1, grows));
  });
  if (task) children.unshift(document.createTextNode(task[1] === " " ? "\u2610 " : "\u2611 "));
  return element("li", { className: task ? "task" : "" }, ...children);
}

function row(name, texts, align, open) {
  const cell = (text, index) =>
    element(name, { className: align[index] ?? "" }, ...inlineNodes(text, open && index === texts.length - 1));
  return element("tr", {}, ...texts.map(cell));
}

function blockNode(block, depth, open) {
  if (depth > DEEPEST) return element("p", { textContent: block.source });
  switch (block.kind) {
    case "code": {
      const copy = element("button", { type: "button", className: "plain small", textContent: t("copy") });
      copy.dataset.copy = "code";
      const bar = element(
        "div",
        { className: "bar" },
        element("span", { textContent: block.language || t("text") }),
        copy,
      );
      const pre = element("pre", { tabIndex: 0 }, element("code", { textContent: block.text }));
      return element("div", { className: "code" }, bar, pre);
    }
    case "heading":
      // The page has the first two levels.
      return element(
        `h${Math.min(block.level + 2, 6)}`,
        { className: `level-${block.level}` },
        ...inlineNodes(block.text, open),
      );
    case "rule":
      return element("hr");
    case "quote": {
      const inner = blocks(block.lines, open);
      const child = (block, index) => blockNode(block, depth + 1, open && index === inner.length - 1);
      return element("blockquote", {}, ...inner.map(child));
    }
    case "list": {
      const last = block.items.length - 1;
      const items = block.items.map((item, index) => listItem(item, block.loose, depth, open && index === last));
      const list = element(block.ordered ? "ol" : "ul", {}, ...items);
      if (block.ordered && block.start !== 1) list.start = block.start;
      return list;
    }
    case "table": {
      const head = element("thead", {}, row("th", block.head, block.align, open && !block.rows.length));
      const last = block.rows.length - 1;
      const rows = block.rows.map((texts, index) => row("td", texts, block.align, open && index === last));
      const table = element("table", {}, head, element("tbody", {}, ...rows));
      const frame = element("div", { className: "table", tabIndex: 0, label: t("table") }, table);
      frame.setAttribute("role", "group");
      return frame;
    }
    default:
      return element("p", {}, ...inlineNodes(block.text, open));
  }
}

/** Makes `old` equal to `fresh` with few changes, so that scroll positions, focus and selections stay. */
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return fresh;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (fresh.data.startsWith(old.data)) {
      if (fresh.data.length > old.data.length) old.appendData(fresh.data.slice(old.data.length));
    } else {
      old.data = fresh.data;
    }
    return old;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((child, index) => (index < before.length ? morph(before[index], child) : old.append(child)));
  for (const child of before.slice(after.length)) child.remove();
  return old;
}

/** A text that may grow. Only blocks that change are made again. */
export class Text {
  constructor(root) {
    this.root = root;
    this.parts = [];
  }

  update(text, open) {
    const found = blocks(text.replaceAll("\r\n", "\n").split("\n"), open);
    found.forEach((block, index) => {
      const grows = open && index === found.length - 1;
      const part = this.parts[index];
      if (part && part.source === block.source && part.grows === grows) return;
      const fresh = blockNode(block, 0, grows);
      if (part) this.parts[index] = { source: block.source, grows, node: morph(part.node, fresh) };
      else (this.parts.push({ source: block.source, grows, node: fresh }), this.root.append(fresh));
    });
    for (const part of this.parts.splice(found.length)) part.node.remove();
  }
}
