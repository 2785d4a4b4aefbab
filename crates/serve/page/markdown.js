// Markdown, as language models write it: blocks and inline nodes as plain objects. render.js makes DOM nodes of them.
//
// Source: CommonMark 0.31 and GitHub's tables, simplified. Differences: a line end inside a paragraph is a line break;
// HTML is text; there are no indented code blocks, underlined headings or reference links; `**` needs no space or
// punctuation outside, because Korean particles follow the closing `**` directly.
//
// The text is hostile: all loops are linear, or bounded by the limits below.

/** Deepest nesting of lists and quotes. Deeper text is shown as it is. */
export const DEEPEST = 12;
/** Most open delimiters of inline nodes. */
const MOST_OPEN = 32;
/** Longest address of a link. */
const LONGEST_ADDRESS = 2000;

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;
const BLANK = /^\s*$/;

/** Splits the row of a table at each `|` without a backslash. */
function cells(line) {
  const row = line.trim();
  const found = [];
  let cell = "";
  for (let i = row.startsWith("|") ? 1 : 0; i < row.length; i++) {
    if (row[i] === "\\" && row[i + 1] === "|") {
      cell += "|";
      i++;
    } else if (row[i] === "|") {
      found.push(cell.trim());
      cell = "";
    } else {
      cell += row[i];
    }
  }
  if (cell.trim() !== "" || !row.endsWith("|")) found.push(cell.trim());
  return found;
}

/** Returns the alignments of a table whose head is in line `i`, or null. */
function table(lines, i, open) {
  if (!lines[i].includes("|")) return null;
  const next = lines[i + 1];
  // The head of a table whose second line still comes.
  const coming = open && lines[i].trimStart().startsWith("|");
  if (next === undefined) return coming ? [] : null;
  const marks = next.includes("-") && /^[-:|\s]+$/.test(next) ? cells(next) : [];
  if (marks.length === cells(lines[i]).length && marks.every((mark) => /^:?-+:?$/.test(mark))) {
    return marks.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : ""));
  }
  return coming && i + 2 === lines.length && /^[-:|\s]*$/.test(next) ? [] : null;
}

/** True if the line ends a paragraph. */
function interrupts(lines, i, open) {
  const line = lines[i];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const item = ITEM.exec(line);
  if (item && item[0].length < line.length && item[1].length < 4 && !/^(?!1[.)])\d/.test(item[2])) return true;
  return table(lines, i, open) !== null;
}

function indent(line) {
  return line.length - line.trimStart().length;
}

/** Reads a list that begins in line `i`. */
function list(lines, i) {
  const first = ITEM.exec(lines[i]);
  const ordered = /\d/.test(first[2]);
  const base = first[1].length;
  const block = { kind: "list", ordered, start: ordered ? Number.parseInt(first[2], 10) : 1, loose: false, items: [] };
  let item = null;
  let strip = 0;
  let fence = null;
  let blank = 0;
  for (; i < lines.length; i++) {
    const line = lines[i];
    if (BLANK.test(line)) {
      blank++;
      continue;
    }
    const depth = indent(line);
    const mark = ITEM.exec(line);
    const within = item && depth > base + 1 && (depth >= strip || !item.nested || fence);
    if (within || (fence && depth >= strip)) {
      // Models indent the inside of an item by two, three or four spaces. The first line decides.
      if (!item.nested) strip = Math.min(strip, depth);
      item.nested = true;
      for (; blank > 0; blank--) item.lines.push("");
      const inner = line.slice(Math.min(strip, depth));
      item.lines.push(inner);
      const mark = FENCE.exec(inner);
      if (mark && !fence) fence = mark[1];
      else if (mark && mark[1].startsWith(fence) && mark[2].trim() === "") fence = null;
    } else if (mark && /\d/.test(mark[2]) === ordered && depth <= base + 3 && !RULE.test(line)) {
      if (blank) block.loose = true;
      blank = 0;
      item = { lines: [line.slice(mark[0].length)], nested: false };
      // A code block can begin directly behind the mark.
      fence = FENCE.exec(item.lines[0])?.[1] ?? null;
      strip = depth + mark[2].length + 1;
      block.items.push(item);
    } else if (item && !blank && !fence && !interrupts(lines, i, false)) {
      item.lines.push(line);
    } else {
      break;
    }
  }
  return { block, end: i - blank };
}

/**
 * Returns the blocks of a text. Each has `kind`, and `source`, its lines. `open` tells that the text still grows: its
 * last block is then shown as it will probably be.
 */
export function blocks(lines, open = false) {
  const found = [];
  for (let i = 0; i < lines.length; ) {
    const line = lines[i];
    const from = i;
    let block;
    let match;
    if (BLANK.test(line)) {
      i++;
      continue;
    }
    if ((match = FENCE.exec(line))) {
      const [, fence, info] = match;
      const strip = indent(line);
      const inner = [];
      let closed = false;
      for (i++; i < lines.length && !closed; i++) {
        const end = FENCE.exec(lines[i]);
        closed = Boolean(end && end[1].startsWith(fence) && end[2].trim() === "");
        if (!closed) inner.push(lines[i].slice(Math.min(strip, indent(lines[i]))));
      }
      block = { kind: "code", language: info.trim().split(/\s/)[0], text: inner.join("\n") };
    } else if ((match = HEADING.exec(line))) {
      let text = line.slice(match[0].length).trim();
      let end = text.length;
      while (text[end - 1] === "#") end--;
      if (end === 0 || /[ \t]/.test(text[end - 1])) text = text.slice(0, end).trimEnd();
      block = { kind: "heading", level: match[1].length, text };
      i++;
    } else if (RULE.test(line)) {
      block = { kind: "rule" };
      i++;
    } else if (QUOTE.test(line)) {
      const inner = [];
      for (; i < lines.length && QUOTE.test(lines[i]); i++) inner.push(lines[i].replace(QUOTE, ""));
      block = { kind: "quote", lines: inner };
    } else if ((match = ITEM.exec(line)) && match[1].length < 4) {
      ({ block, end: i } = list(lines, i));
    } else if ((match = table(lines, i, open))) {
      const rows = [];
      for (i += 2; i < lines.length && !BLANK.test(lines[i]) && !FENCE.test(lines[i]) && !HEADING.test(lines[i]); i++) {
        rows.push(cells(lines[i]));
      }
      i = Math.min(i, lines.length);
      block = { kind: "table", head: cells(line), align: match, rows };
    } else {
      const inner = [line];
      for (i++; i < lines.length && !BLANK.test(lines[i]) && !interrupts(lines, i, open); i++) inner.push(lines[i]);
      block = { kind: "paragraph", text: inner.map((line) => line.trim()).join("\n") };
    }
    block.source = lines.slice(from, i).join("\n");
    found.push(block);
  }
  return found;
}

/** Returns the address if it is one of the web, else null. */
export function address(text) {
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&nbsp;": "\u00a0" };
const PLAIN = /[^\\`*_~[\]!<&h\n]+/y;
const ENTITY = /&(?:amp|lt|gt|quot|#39|nbsp);/y;
const ANGLE = /<(https?:\/\/[^\s<>]{1,2000})>/y;
const BREAK = /<br ?\/?>/iy;
const BARE = /https?:\/\/[^\s<>"`]{1,2000}/y;
const LETTER = /[\p{L}\p{N}]/u;

function at(expression, text, position) {
  expression.lastIndex = position;
  return expression.exec(text)?.[0];
}

/** Reads `(address "title")` behind a label. Returns { target, end }; `end` is -1 if the text ends before. */
function destination(text, position) {
  let i = position + 1;
  while (text[i] === " ") i++;
  const angle = text[i] === "<";
  const from = angle ? i + 1 : i;
  let depth = 0;
  for (i = from; i < text.length && i - from < LONGEST_ADDRESS; i++) {
    if (angle ? text[i] === ">" : /\s/.test(text[i]) || (text[i] === ")" && depth === 0)) break;
    if (text[i] === "(") depth++;
    if (text[i] === ")") depth--;
  }
  const target = text.slice(from, i);
  if (angle) i++;
  const close = /\s*(?:"[^"\n]{0,500}"|'[^'\n]{0,500}')?\s*\)/y;
  close.lastIndex = i;
  if (close.test(text)) return { target, end: close.lastIndex };
  return i >= text.length ? { target, end: -1 } : null;
}

/** Returns the inline nodes of a text. `open` as in `blocks`. */
export function inline(text, open = false) {
  // Frames of open delimiters. The first one is the text itself.
  const frames = [{ mark: "", count: 0, nodes: [] }];
  const missing = new Set();
  const top = () => frames[frames.length - 1];
  const add = (node) => top().nodes.push(node);
  const say = (value) => {
    const last = top().nodes.at(-1);
    if (last?.kind === "text") last.text += value;
    else if (value) add({ kind: "text", text: value });
  };
  /** Makes text of all delimiters above frame `index`. */
  const flatten = (index) => {
    while (frames.length - 1 > index) {
      const frame = frames.pop();
      const nodes = frame.nodes;
      if (open && frame.mark !== "[" && frame.count >= 2 && nodes.length) {
        add({ kind: frame.mark === "~" ? "deleted" : "strong", nodes });
        continue;
      }
      say(frame.mark.repeat(frame.count));
      for (const node of nodes) node.kind === "text" ? say(node.text) : add(node);
    }
  };
  /** Handles a run of `*`, `_` or `~`. */
  const delimiter = (mark, length, before, after) => {
    const space = /^\s?$/;
    let opens = !space.test(after);
    let closes = !space.test(before);
    if (mark === "_") [opens, closes] = [opens && !LETTER.test(before), closes && !LETTER.test(after)];
    let count = length;
    for (let k = frames.length - 1; closes && k > 0 && count > 0; k--) {
      const frame = frames[k];
      if (frame.mark !== mark || (mark === "~" && frame.count !== count)) continue;
      if (opens && frame.both && (frame.length + length) % 3 === 0) continue;
      const was = open;
      open = false;
      flatten(k);
      open = was;
      const used = frame.count >= 2 && count >= 2 ? 2 : 1;
      const kind = mark === "~" ? "deleted" : used === 2 ? "strong" : "emphasis";
      const node = { kind, nodes: frame.nodes };
      frame.count -= mark === "~" ? frame.count : used;
      count -= mark === "~" ? count : used;
      if (frame.count > 0) {
        frame.nodes = [node];
      } else {
        frames.pop();
        add(node);
      }
      k = frames.length;
    }
    if (count === 0) return;
    if (opens && frames.length < MOST_OPEN && (mark !== "~" || count === 2)) {
      frames.push({ mark, count, length, both: closes, nodes: [] });
    } else {
      say(mark.repeat(count));
    }
  };

  for (let i = 0; i < text.length; ) {
    const char = text[i];
    let part;
    if ((part = at(PLAIN, text, i))) {
      say(part);
      i += part.length;
    } else if (char === "\n") {
      add({ kind: "break" });
      i++;
    } else if (char === "\\" && /[!-/:-@[-`{-~]/.test(text[i + 1] ?? "")) {
      say(text[i + 1]);
      i += 2;
    } else if (char === "`") {
      let end = i;
      while (text[end] === "`") end++;
      const length = end - i;
      let close = -1;
      if (!missing.has(length)) {
        const run = /`+/g;
        run.lastIndex = end;
        for (let match; close < 0 && (match = run.exec(text)); ) if (match[0].length === length) close = match.index;
        if (close < 0) missing.add(length);
      }
      if (close < 0 && !(open && length < 3 && end < text.length)) {
        if (!(open && end === text.length)) say("`".repeat(length));
        i = end;
        continue;
      }
      let code = text.slice(end, close < 0 ? text.length : close).replaceAll("\n", " ");
      if (code.length > 2 && code.startsWith(" ") && code.endsWith(" ") && code.trim()) code = code.slice(1, -1);
      add({ kind: "code", text: code });
      i = close < 0 ? text.length : close + length;
    } else if (char === "*" || char === "_" || char === "~") {
      let end = i;
      while (text[end] === char) end++;
      // The rest of these delimiters still comes.
      const half = open && end === text.length && char !== "_";
      if (!half || frames.some((frame) => frame.mark === char && frame.count === end - i)) {
        delimiter(char, end - i, text[i - 1] ?? "", text[end] ?? "");
      }
      i = end;
    } else if (char === "[" || (char === "!" && text[i + 1] === "[")) {
      const length = char === "[" ? 1 : 2;
      if (frames.length < MOST_OPEN) {
        if (length === 2) frames.push({ mark: "[", image: true, count: 1, nodes: [] });
        else frames.push({ mark: "[", image: false, count: 1, nodes: [] });
      } else {
        say(text.slice(i, i + length));
      }
      i += length;
    } else if (char === "]") {
      let k = frames.length - 1;
      while (k > 0 && frames[k].mark !== "[") k--;
      const found = k > 0 && text[i + 1] === "(" ? destination(text, i + 1) : null;
      if (!found || frames[k].dead || (found.end < 0 && !open)) {
        if (k > 0) flatten(k - 1);
        say("]");
        i++;
        continue;
      }
      flatten(k);
      const { nodes, image } = frames.pop();
      const href = found.end < 0 ? null : address(found.target);
      add({ kind: image ? "image" : "link", href, nodes });
      if (!image) for (const frame of frames) frame.dead = frame.mark === "[" && !frame.image;
      i = found.end < 0 ? text.length : found.end;
    } else if ((part = at(ENTITY, text, i))) {
      say(ENTITIES[part]);
      i += part.length;
    } else if ((part = at(BREAK, text, i))) {
      add({ kind: "break" });
      i += part.length;
    } else if ((part = at(ANGLE, text, i))) {
      const target = part.slice(1, -1);
      add({ kind: "link", href: address(target), nodes: [{ kind: "text", text: target }] });
      i += part.length;
    } else if (char === "h" && !LETTER.test(text[i - 1] ?? "") && (part = at(BARE, text, i))) {
      let target = part.replace(/[.,:;!?'"*_~\]]{1,100}$/, "");
      if (target.endsWith(")") && !target.includes("(")) target = target.slice(0, -1);
      const href = address(target);
      if (href) add({ kind: "link", href, nodes: [{ kind: "text", text: target }] });
      else say(target);
      i += target.length;
    } else {
      say(char);
      i++;
    }
  }
  flatten(0);
  return frames[0].nodes;
}
