"""A small template language for seeded text generation.

    [a|b|c]      one of the alternatives (they nest; an alternative may be empty)
    {key}        the value bound to `key`; `{Key}` is the same with a capital letter
    {~list}      a random member of a lexicon list
    {x=~list}    a random member, remembered as `x`
    {key:mark}   the value followed by a Korean particle that fits its last syllable
    a% word      "a" or "an", whichever the next word needs (`A%` at the start of a sentence)

Templates are parsed once and kept, since a few hundred of them write millions of sentences.
"""

import functools
import re

PARTICLES = {
    # mark: (after a final consonant, after a vowel)
    "은": ("은", "는"),
    "이": ("이", "가"),
    "을": ("을", "를"),
    "와": ("과", "와"),
    "아": ("아", "야"),
    "라고": ("이라고", "라고"),
    "예요": ("이에요", "예요"),
    "입니다": ("입니다", "입니다"),
    "야": ("이야", "야"),
    "다": ("이다", "다"),
    "였": ("이었", "였"),
    "나": ("이나", "나"),
    "라는": ("이라는", "라는"),
    "랑": ("이랑", "랑"),
}


def final_consonant(word):
    """The index of the last syllable's final consonant: 0 for none, 8 for ㄹ."""
    code = ord(word[-1]) - 0xAC00
    if 0 <= code < 11172:
        return code % 28
    return 0


def with_particle(word, mark):
    final = final_consonant(word)
    if mark == "로":
        # ㄹ behaves like a vowel before this one particle: 교실로, but 집으로.
        return word + ("로" if final in (0, 8) else "으로")
    if mark == "의":
        return word + "의"
    return word + PARTICLES[mark][0 if final else 1]


@functools.lru_cache(maxsize=None)
def parse(template):
    """A template as a tuple of str, ('slot', name, key, mark) and ('choice', alternatives)."""
    nodes, position = _parse_sequence(template, 0, "")
    if position != len(template):
        raise ValueError(f"unbalanced bracket in template: {template!r}")
    return nodes


def _parse_sequence(text, position, stops):
    nodes, literal = [], []

    def flush():
        if literal:
            nodes.append("".join(literal))
            literal.clear()

    while position < len(text):
        character = text[position]
        if character in stops:
            break
        if character == "[":
            flush()
            alternatives = []
            while True:
                inner, position = _parse_sequence(text, position + 1, "|]")
                if position >= len(text):
                    raise ValueError(f"unclosed [ in template: {text!r}")
                alternatives.append(inner)
                if text[position] == "]":
                    break
            nodes.append(("choice", tuple(alternatives)))
            position += 1
        elif character == "{":
            flush()
            end = text.index("}", position)
            body = text[position + 1 : end]
            body, _, mark = body.partition(":")
            name, equals, key = body.partition("=")
            nodes.append(("slot", name if equals else "", key if equals else name, mark))
            position = end + 1
        else:
            literal.append(character)
            position += 1
    flush()
    return tuple(nodes), position


ARTICLE = re.compile(r"\b([aA])% (\W?)(\w+)")
AN_SILENT = {"hour", "honest"}
A_SPOKEN = {"one", "useful", "unicorn", "uniform", "used"}


def _article(match):
    letter, quote, word = match.groups()
    lower = word.lower()
    vowel = (lower[0] in "aeiou" and lower not in A_SPOKEN) or lower in AN_SILENT
    return f"{letter}{'n' if vowel else ''} {quote}{word}"


class Scene:
    """What one document knows: a random source, a lexicon, and the bound words."""

    def __init__(self, random_source, lexicon, **bound):
        self.random = random_source
        self.lexicon = lexicon
        self.bound = bound
        self.last = {}

    def pick(self, options):
        return options[int(self.random.random() * len(options))]

    def chance(self, probability):
        return self.random.random() < probability

    def draw(self, name, count):
        return self.random.sample(self.lexicon[name], count)

    def say(self, template):
        out = []
        self._write(parse(template), out)
        text = "".join(out)
        return ARTICLE.sub(_article, text) if "%" in text else text

    def _write(self, nodes, out):
        for node in nodes:
            if isinstance(node, str):
                out.append(node)
            elif node[0] == "choice":
                self._write(self.pick(node[1]), out)
            else:
                _, name, key, mark = node
                value = self._value(key)
                if name:
                    self.bound[name] = value
                out.append(with_particle(value, mark) if mark else value)

    def _value(self, key):
        if key[0] == "~":
            value = self.pick(self.lexicon[key[1:]])
            # The same word twice in a row would read as a slip: "blue and blue balloons".
            while value == self.last.get(key):
                value = self.pick(self.lexicon[key[1:]])
            self.last[key] = value
            # A lexicon entry may be a template of its own.
            return self.say(value) if "[" in value or "{" in value else value
        if key in self.bound:
            return self.bound[key]
        lowered = key[0].lower() + key[1:]
        value = self.bound[lowered]
        return value[0].upper() + value[1:]

    def tell(self, beats, separator=" "):
        """One sentence group for each beat; a beat is a template, or alternatives to pick from."""
        said = []
        for beat in beats:
            if callable(beat):
                beat = beat(self)
            if not beat:
                continue
            text = self.say(beat if isinstance(beat, str) else self.pick(beat))
            if text:
                said.append(text)
        return separator.join(said)
