#!/usr/bin/env python3
"""Checks that an answer with a seed has the same bytes alone and beside 15 others.

    python3 identical.py --kvant target/release/kvant MODEL [MODEL…]

For each model and for the KV caches f16 and q8_0: 100 requests, each alone on a fresh server; then on another fresh server all
of them, 16 at the same time, in another order, with random pauses, common beginnings, clients that leave, and little memory, so
that states are evicted and requests give their memory away. Compares texts, tokens and log probabilities. Needs no package.
"""
import argparse
import concurrent.futures
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request

WORDS = ("river mountain garden engine letter winter copper silver market harbour castle forest window teacher "
         "서울 바다 하늘 친구 도시 강물 겨울 아침").split()


def requests(count):
    """Returns bodies with common beginnings."""
    generator = random.Random(7)
    beginnings = [" ".join(generator.choices(WORDS, k=length)) for length in (0, 20, 60, 150)]
    bodies = []
    for index in range(count):
        prompt = f"{generator.choice(beginnings)} {' '.join(generator.choices(WORDS, k=generator.randint(1, 40)))}:"
        bodies.append({
            "prompt": prompt, "n_predict": generator.randint(4, 40), "seed": index, "n_probs": 3,
            "temperature": generator.choice([0.0, 0.7, 1.0]), "ignore_eos": generator.random() < 0.5,
            "repeat_penalty": generator.choice([1.0, 1.1]),
        })
    return bodies


class Server:
    def __init__(self, arguments, model, kv, memory):
        command = [arguments.kvant, "serve", model, "--port", "0", "--json", "--parallel", "16", "--ctx", "1024", "--kv", kv,
                   "--memory", memory]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = json.loads(self.process.stdout.readline())["address"]

    def ask(self, body):
        request = urllib.request.Request(f"{self.address}/completion", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as response:
            answer = json.load(response)
        return answer["content"], answer["completion_probabilities"], answer["tokens_predicted"]

    def leave(self, body):
        """Sends a request, and leaves before its answer."""
        host, port = self.address.removeprefix("http://").split(":")
        text = json.dumps(body).encode()
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            time.sleep(0.05)

    def metric(self, name):
        with urllib.request.urlopen(f"{self.address}/metrics") as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"kvant_{name}"))

    def stop(self):
        self.process.terminate()
        self.process.wait()


def check(arguments, model, kv):
    bodies = requests(arguments.requests)
    server = Server(arguments, model, kv, arguments.memory)
    alone = [server.ask(body) for body in bodies]
    server.stop()
    server = Server(arguments, model, kv, arguments.memory)
    order = list(range(len(bodies)))
    random.Random(1).shuffle(order)
    pauses = random.Random(2)

    def later(index):
        time.sleep(pauses.random() * 0.2)
        if pauses.random() < 0.2:
            server.leave(bodies[pauses.randrange(len(bodies))])
        return index, server.ask(bodies[index])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = dict(pool.map(later, order))
    different = [index for index in order if together[index] != alone[index]]
    print(f"{model}, KV cache {kv}: {len(bodies)} answers, {len(different)} differ; "
          f"{server.metric('prompt_tokens_cached_total'):.0f} tokens of prompts cached, {server.metric('prompt_tokens_total'):.0f} read, "
          f"{server.metric('requests_preempted_total'):.0f} preempted, {server.metric('requests_cancelled_total'):.0f} left", flush=True)
    server.stop()
    return not different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kvant", required=True)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--memory", default="96MiB")
    parser.add_argument("models", nargs="+")
    arguments = parser.parse_args()
    results = [check(arguments, model, kv) for model in arguments.models for kv in ("f16", "q8_0")]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
