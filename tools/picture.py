#!/usr/bin/env python3
"""Terminal output as a picture: reads text, writes SVG.

    kvant demo | python3 tools/picture.py '$ cargo run --release -- demo' > docs/demo.svg
"""
import html
import sys
import unicodedata

ADVANCE, LINE, MARGIN, WRAP = 8.4, 19, 16, 151


def width(text):
    """Columns of a terminal: Korean letters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(line):
    out = ""
    for word in line.split(" "):
        if out and width(out) + 1 + width(word) > WRAP:
            yield out
            out = word
        else:
            out = f"{out} {word}" if out or not word else word
    yield out


def rows(text):
    for line in text.rstrip("\n").split("\n"):
        # A table keeps its spaces; a sample is wrapped as a terminal would.
        yield from [line] if width(line) <= WRAP else wrapped(line)


lines = [sys.argv[1], *rows(sys.stdin.read())] if len(sys.argv) > 1 else list(rows(sys.stdin.read()))
wide = MARGIN * 2 + ADVANCE * max(map(width, lines))
high = MARGIN * 2 + LINE * len(lines)
print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" height="{high}" viewBox="0 0 {wide:.0f} {high}">')
print('<rect width="100%" height="100%" rx="8" fill="#1d2330"/>')
print('<g font-family="DejaVu Sans Mono, Menlo, Consolas, D2Coding, monospace" font-size="14" xml:space="preserve">')
for index, line in enumerate(lines):
    colour = "#8fd6a0" if line.startswith("$") else "#e4e8f0"
    y = MARGIN + LINE * index + 14
    print(f'<text x="{MARGIN}" y="{y}" fill="{colour}">{html.escape(line)}</text>')
print("</g></svg>")
