// The inline nodes of Markdown as plain objects.
//
// Source: CommonMark 0.31, simplified. Differences: a line end is a line break; HTML is text; `*` needs no space or
// punctuation outside, because Korean particles follow the closing `**` directly.
//
// The text is hostile: all loops are linear, or bounded by the limits below.

/** Most open delimiters. It bounds the nesting too. */
const MOST_OPEN = 32;
/** Longest address of a link. */
const LONGEST_ADDRESS = 2000;

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
    // A further label cannot be part of an address.
    if (text[i] === "[" || (angle ? text[i] === ">" : /\s/.test(text[i]) || (text[i] === ")" && depth === 0))) break;
    if (text[i] === "(") depth++;
    if (text[i] === ")") depth--;
  }
  const target = text.slice(from, i);
  if (angle) i++;
  const close = /\s{0,20}(?:"[^"\n]{0,500}"|'[^'\n]{0,500}')?\s{0,20}\)/y;
  close.lastIndex = i;
  if (close.test(text)) return { target, end: close.lastIndex };
  return i >= text.length ? { target, end: -1 } : null;
}

/** Returns the nodes of a text. `open` tells that the text still grows: delimiters without an end are then closed. */
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
      say(frame.image ? "![" : frame.mark.repeat(frame.count));
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

  for (let i = 0; i < text.length;) {
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
        for (let match; close < 0 && (match = run.exec(text));) if (match[0].length === length) close = match.index;
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
        frames.push({ mark: "[", image: length === 2, count: 1, nodes: [] });
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
