"""Writes the demo model's text: seeded stories, dialogues, plain facts and chats in English and Korean.

    python stories.py --seed 1 --documents 20      prints a few documents

Everything is made from this folder's own templates and word lists; no data set is read.
"""

import argparse
import random

import stories_en
import stories_ko
import talk_en
import talk_ko

ENGLISH_SHARE = 0.58
CHAT_SHARE = 0.25


def render_chat(messages):
    """The chat format of the tokenizer's template, without the leading <s>."""
    return "".join(f"<|{role}|>{text}<|end|>" for role, text in messages)


def document(random_source):
    """(kind, text) where kind is 'en', 'ko', 'chat-en' or 'chat-ko'."""
    english = random_source.random() < ENGLISH_SHARE
    talk, stories = (talk_en, stories_en) if english else (talk_ko, stories_ko)
    language = "en" if english else "ko"
    if random_source.random() < CHAT_SHARE:
        return "chat-" + language, render_chat(talk.chat(random_source))
    kind = random_source.random()
    if kind < 0.78:
        return language, stories.story(random_source, title=random_source.random() < 0.15)
    if kind < 0.92:
        return language, talk.dialogue(random_source)
    return language, talk.fact_lines(random_source)


def documents(seed, count):
    """`count` documents; the seed is any string, and the same seed gives the same text."""
    random_source = random.Random(seed)
    return [document(random_source) for _ in range(count)]


def held_out(seed, count):
    """Documents for evaluation only. Short chats are left out: they are the same in any seed."""
    found, seen = [], set()
    random_source = random.Random(f"held-out {seed}")
    while len(found) < count:
        kind, text = document(random_source)
        if len(text) >= 200 and text not in seen:
            seen.add(text)
            found.append((kind, text))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--documents", type=int, default=10)
    arguments = parser.parse_args()
    for kind, text in documents(arguments.seed, arguments.documents):
        print(f"# {kind}\n{text}\n")


if __name__ == "__main__":
    main()
