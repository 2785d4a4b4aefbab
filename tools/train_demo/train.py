"""Trains the demo model that the kvant binary carries, from text that this folder generates.

    python train.py --out ../../assets/demo --minutes 60 --work /tmp/train_demo --seed 1 --threads 2

The learning rate follows the clock, so a run takes `--minutes` on any machine. A run that was
stopped goes on from its last checkpoint in the work folder. Every few minutes the model so far is
exported, so a usable one stands in `--out` early.
"""

import argparse
import contextlib
import math
import os
import signal
import sys
import time

import torch

import corpus
import export
from model import Llama

WARM_UP = 0.02  # share of the time in which the rate rises
DECAY = 0.40  # share of the time, at the end, in which it falls to zero
SAVE_SECONDS = 240
EXPORT_SECONDS = 480

PROMPTS = [
    "Once upon a time", "옛날 옛날에", "Lily went to the market", "민준이는",
    "<|user|>Tell me a short story about a brave fox.<|end|><|assistant|>",
    "<|user|>고양이 이야기를 들려줘.<|end|><|assistant|>",
    "<|user|>What colour is the sky?<|end|><|assistant|>",
    "<|user|>안녕하세요!<|end|><|assistant|>",
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the finished model")
    parser.add_argument("--work", required=True, help="folder for the text, tokenizer and checkpoints")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=4, help="rows of 512 tokens in a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--no-compile", action="store_true", help="for machines without a C++ compiler")
    parser.add_argument("--no-bf16", action="store_true", help="for processors where bf16 is slower than f32")
    return parser.parse_args()


def rate_factor(progress):
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    if progress > 1.0 - DECAY:
        return max((1.0 - progress) / DECAY, 0.0)
    return 1.0


@torch.no_grad()
def held_out_losses(model, tokenizer, held_out):
    """Nats for each token of whole documents, by kind; the end token counts, the leading <s> does not."""
    sums = {}
    for kind, text in held_out:
        ids = (tokenizer.encode(text).ids + [1])[:512]
        loss = model.loss(torch.tensor([ids]), reduction="sum").item()
        for name in ("all", kind):
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total + loss, count + len(ids) - 1)
    return {name: (total / count, count) for name, (total, count) in sums.items()}


@torch.no_grad()
def sample(model, tokenizer, prompt, seed, limit=200, temperature=0.7, top_k=40):
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer.encode(prompt).ids
    for _ in range(limit):
        logits = model(torch.tensor([ids[-512:]]))[0, -1].float() / temperature
        values, indices = logits.topk(top_k)
        choice = indices[torch.multinomial(values.softmax(-1), 1, generator=generator)].item()
        if choice in (1, 5):
            return tokenizer.decode(ids, skip_special_tokens=False) + ("</s>" if choice == 1 else "<|end|>")
        ids.append(choice)
    return tokenizer.decode(ids, skip_special_tokens=False) + " ..."


def save_checkpoint(path, state):
    torch.save(state, path + ".partial")
    os.replace(path + ".partial", path)


def row_order(count, seed, epoch):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1000 + epoch))


def main():
    options = arguments()
    os.environ.setdefault("RAYON_NUM_THREADS", str(options.threads))
    os.makedirs(options.work, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    # A polite kill ends the loop below through its `finally`, with a checkpoint and an export.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on from here"))
    begun = time.time()
    tokenizer, rows, held_out = corpus.prepare(options.work, options.seed, options.documents, options.threads)
    print(f"text ready after {time.time() - begun:.0f} s", flush=True)

    model = Llama()
    decayed = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    plain = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=options.rate, betas=(0.9, 0.95), fused=True)
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters", flush=True)

    checkpoint = os.path.join(options.work, "checkpoint.pt")
    step, done, earlier = 0, 0, 0.0
    if os.path.exists(checkpoint):
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, done, earlier = state["step"], state["rows"], state["elapsed"]
        print(f"goes on from step {step}, {earlier / 60:.1f} minutes", flush=True)

    loss_function = model.loss if options.no_compile else torch.compile(model.loss)
    precision = contextlib.nullcontext if options.no_bf16 else lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    seconds = options.minutes * 60
    started = saved = exported = printed = time.time()
    rows_in_epoch = len(rows) - len(rows) % options.batch
    order, order_epoch = None, -1
    running, running_steps = torch.zeros(()), 0

    def elapsed():
        return earlier + time.time() - started

    def save():
        save_checkpoint(checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                                     "step": step, "rows": done, "elapsed": elapsed()})

    try:
        while (progress := elapsed() / seconds) < 1.0:
            epoch, within = divmod(done, rows_in_epoch)
            if epoch != order_epoch:
                order, order_epoch = row_order(len(rows), options.seed, epoch), epoch
            batch = rows[order[within : within + options.batch]].long()
            for group in optimizer.param_groups:
                group["lr"] = options.rate * rate_factor(progress)
            with precision():
                loss = loss_function(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            running += loss.detach()
            running_steps += 1
            step, done = step + 1, done + options.batch
            if not math.isfinite(loss.item()):
                raise SystemExit("the loss is not finite")
            now = time.time()
            if now - printed > 30:
                speed = running_steps * batch.numel() / (now - printed)
                print(f"{elapsed() / 60:6.1f} min  step {step}  epoch {done / rows_in_epoch:.2f}  "
                      f"loss {running.item() / running_steps:.4f}  {speed:.0f} tokens/s", flush=True)
                printed, running, running_steps = now, torch.zeros(()), 0
            if now - saved > SAVE_SECONDS:
                save()
                saved = now
            if now - exported > EXPORT_SECONDS:
                export.export(options.out, model.state_dict(), tokenizer, held_out)
                losses = held_out_losses(model, tokenizer, held_out[:100])
                print("exported; held-out loss of 100 documents " + f"{losses['all'][0]:.4f}", flush=True)
                exported = now
    finally:
        save()
        export.export(options.out, model.state_dict(), tokenizer, held_out)

    print(f"trained {step} steps, {done * corpus.ROW / 1e6:.1f} M tokens, "
          f"{done / rows_in_epoch:.2f} epochs, {elapsed() / 60:.1f} minutes", flush=True)
    # The figures are those of the exported bf16 weights, not of the f32 weights in training.
    model.load_state_dict({name: tensor.to(torch.bfloat16).float() for name, tensor in model.state_dict().items()})
    for name, (loss, count) in sorted(held_out_losses(model, tokenizer, held_out).items()):
        print(f"held-out {name}: {loss:.4f} nats/token over {count} tokens", flush=True)
    for number, prompt in enumerate(PROMPTS):
        print(f"--- {sample(model, tokenizer, prompt, options.seed + number)}", flush=True)


if __name__ == "__main__":
    main()
