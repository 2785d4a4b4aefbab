"""From generated documents to a tokenizer and packed training rows of token numbers."""

import json
import multiprocessing
import os
import random
import re

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import stories

SPECIAL_TOKENS = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
VOCABULARY = 4096
ROW = 512
SHARD_DOCUMENTS = 5000
HELD_OUT_DOCUMENTS = 900

# Llama 3's split, so that kvant's fast path for that regular expression serves the demo model too.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Unknown role: ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _shard(seed):
    return stories.documents(seed, SHARD_DOCUMENTS)


def training_documents(seed, count, held_out, processes):
    """Unique plain documents and chats, without any that is also held out."""
    seeds = [f"train {seed} {number}" for number in range((count + SHARD_DOCUMENTS - 1) // SHARD_DOCUMENTS)]
    forbidden = {text for _, text in held_out}
    kept, seen = [], set()
    with multiprocessing.Pool(processes) as pool:
        for documents in pool.imap(_shard, seeds):
            for kind, text in documents:
                if text in forbidden:
                    continue
                # Short chats such as a greeting may come again; a whole story may not.
                if not kind.startswith("chat") or len(text) >= 200:
                    if text in seen:
                        continue
                    seen.add(text)
                kept.append((kind, text))
    assert not forbidden & {text for _, text in kept}, "a held-out document is in the training text"
    return kept


def join_some(documents, seed):
    """Joins a share of neighbouring plain documents by a blank line, as plain text files have them."""
    random_source = random.Random(f"join {seed}")
    joined, position = [], 0
    while position < len(documents):
        group = 1
        if random_source.random() < 0.08:
            group = random_source.randint(2, 4)
        texts = []
        while position < len(documents) and len(texts) < group:
            kind, text = documents[position]
            if kind.startswith("chat"):
                if not texts:
                    texts.append(text)
                    position += 1
                break
            texts.append(text)
            position += 1
        joined.append("\n\n".join(texts))
    return joined


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    pieces = (piece for text in texts for piece in re.split(r"<\|\w+\|>", text) if piece)
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"vocabulary of {tokenizer.get_vocab_size()}, expected {VOCABULARY}: more text is needed")
    return tokenizer


def pack(tokenizer, texts):
    """Rows of 512 tokens; each starts with <s>, also where it goes on in the middle of a document."""
    stream = []
    for start in range(0, len(texts), 4000):
        for encoding in tokenizer.encode_batch(texts[start : start + 4000]):
            stream.extend(encoding.ids)
            stream.append(1)
    rows, position = [], 0
    while position + ROW <= len(stream):
        if stream[position] == 0:
            rows.append(stream[position : position + ROW])
            position += ROW
        else:
            rows.append([0] + stream[position : position + ROW - 1])
            position += ROW - 1
    return torch.tensor(rows, dtype=torch.int16)


def prepare(work, seed, count, processes):
    """(tokenizer, rows, held-out documents), made once and then read from the work folder."""
    paths = {name: os.path.join(work, name) for name in ("tokenizer.json", "rows.pt", "heldout.json")}
    if all(os.path.exists(path) for path in paths.values()):
        with open(paths["heldout.json"], encoding="utf-8") as file:
            held_out = [tuple(entry) for entry in json.load(file)]
        return Tokenizer.from_file(paths["tokenizer.json"]), torch.load(paths["rows.pt"]), held_out
    held_out = stories.held_out(seed, HELD_OUT_DOCUMENTS)
    documents = training_documents(seed, count, held_out, processes)
    texts = join_some(documents, seed)
    print(f"{len(documents)} documents, {sum(len(text.encode()) for text in texts) / 1e6:.1f} MB", flush=True)
    tokenizer = train_tokenizer(texts[:40000])
    rows = pack(tokenizer, texts)
    print(f"{rows.numel() / 1e6:.1f} M tokens in {len(rows)} rows", flush=True)
    tokenizer.save(paths["tokenizer.json"])
    with open(paths["heldout.json"], "w", encoding="utf-8") as file:
        json.dump(held_out, file, ensure_ascii=False)
    torch.save(rows, paths["rows.pt"])
    return tokenizer, rows, held_out


def held_out_text(held_out, size=120_000):
    """Plain held-out documents, separated by a blank line, up to about `size` bytes."""
    texts, total = [], 0
    for kind, text in held_out:
        if kind.startswith("chat"):
            continue
        if total >= size:
            break
        texts.append(text)
        total += len(text.encode()) + 2
    return "\n\n".join(texts) + "\n"
