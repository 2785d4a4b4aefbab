// The blocks of Markdown, as language models write it, as plain objects. inline.js reads the text inside of blocks, and
// render.js makes DOM nodes.
//
// Source: CommonMark 0.31 and GitHub's tables, simplified. Differences: there are no indented code blocks, underlined
// headings or reference links, and lists may be indented by any number of spaces.
//
// The text is hostile: all loops are linear, or bounded by the limit below.

/** Deepest nesting of lists and quotes. Deeper text is shown as it is. */
export const DEEPEST = 12;

const FENCE = /^ *(`{3,}|~{3,})[ \t]*([^`]*)$/;
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

/** True if the line ends a table. */
function ends(line) {
  return [BLANK, FENCE, HEADING, RULE, QUOTE].some((mark) => mark.test(line));
}

/** True if the line ends a paragraph. */
function interrupts(lines, i, open) {
  const line = spaces(lines[i]);
  if (ends(line)) return true;
  const item = ITEM.exec(line);
  if (item && item[0].length < line.length && !/^(?!1[.)])\d/.test(item[2])) return true;
  return table(lines, i, open) !== null;
}

/** Replaces tabs before the text. Tabs inside of code stay. */
function spaces(line) {
  return line.replace(/^[ \t]+/, (space) => space.replaceAll("\t", "    "));
}

/** Columns of space before the text. A tab has four. */
function indent(line) {
  let columns = 0;
  for (let i = 0; line[i] === " " || line[i] === "\t"; i++) columns += line[i] === "\t" ? 4 : 1;
  return columns;
}

/** Removes at most `columns` of space before the text. */
function cut(line, columns) {
  let i = 0;
  for (; columns > 0 && (line[i] === " " || line[i] === "\t"); i++) columns -= line[i] === "\t" ? 4 : 1;
  return " ".repeat(Math.max(0, -columns)) + line.slice(i);
}

/** Reads a list that begins in line `i`. */
function list(lines, i) {
  const first = ITEM.exec(spaces(lines[i]));
  const ordered = /\d/.test(first[2]);
  const base = first[1].length;
  const block = { kind: "list", ordered, start: ordered ? Number.parseInt(first[2], 10) : 1, loose: false, items: [] };
  let item = null;
  let strip = 0;
  let fence = null;
  let blank = 0;
  for (; i < lines.length; i++) {
    const line = fence ? lines[i] : spaces(lines[i]);
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
      if (blank && !fence) block.loose = true;
      for (; blank > 0; blank--) item.lines.push("");
      const inner = cut(line, strip);
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
  for (let i = 0; i < lines.length;) {
    const line = spaces(lines[i]);
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
        if (!closed) inner.push(cut(lines[i], strip));
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
    } else if (ITEM.test(line)) {
      ({ block, end: i } = list(lines, i));
    } else if ((match = table(lines, i, open))) {
      const rows = [];
      for (i += 2; i < lines.length && !ends(lines[i]); i++) {
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
