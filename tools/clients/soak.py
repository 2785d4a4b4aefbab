#!/usr/bin/env python3
"""Many requests to a running `kvant serve`, some of them hostile: nothing may break, and memory may not grow.

    python tools/clients/soak.py http://127.0.0.1:8080 --requests 10000 [--pid PID] [--clients 16]

Every prompt is other text. Of 100 requests 5 hang up, 2 are malformed (broken JSON, invalid UTF-8, deep nesting, wrong
types), 1 reads slowly, and 1 has a prompt of a million characters. Each well-formed request must get status 200 and the
tokens that it wants, or the error that its prompt is too long. Prints the resident memory of PID and its highest value after
each thousand, while no request is open (an open request with a million characters takes memory, too). Ends with status 1 if an
answer is wrong or if memory grows by more than 2 % after the first thousand.
Needs nothing but Python 3.
"""

import argparse
import asyncio
import json
import random
import sys
import urllib.parse

DEEP = b'{"messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
MALFORMED = [b"{", b"", b"[]", b'"x"', b"\xff\xfe\x00", b'{"messages": 3}', b'{"messages": [{"role": 1}]}', DEEP, b'{"messages": [{"role": "user", "content": "\xff"}]}']


class Soak:
    def __init__(self, given):
        url = urllib.parse.urlparse(given.url)
        self.host, self.port, self.given = url.hostname, url.port, given
        self.left, self.done, self.wrong, self.memory = given.requests, 0, [], []

    async def send(self, body, path="/v1/chat/completions"):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return reader, writer

    async def one(self, number):
        generator = random.Random(number)
        words = [generator.choice("abcdefgh") * generator.randint(1, 6) + str(generator.randint(0, 999)) for _ in range(generator.randint(3, 60))]
        tokens = generator.randint(1, 24)
        stream = generator.random() < 0.5
        request = {"messages": [{"role": "user", "content": " ".join(words)}], "max_tokens": tokens, "ignore_eos": True, "stream": stream, "seed": number}
        kind = number % 100
        if kind in (11, 61):
            reader, writer = await self.send(generator.choice(MALFORMED))
            status = await self.status(reader)
            if not 400 <= status < 500:
                self.wrong.append(f"{number}: malformed, status {status}")
        elif kind == 31:
            request["messages"][0]["content"] = "long " * 200_000
            reader, writer = await self.send(json.dumps(request).encode())
            status = await self.status(reader)
            if status != 400:
                self.wrong.append(f"{number}: a long prompt, status {status}")
        elif kind in (5, 25, 45, 65, 85):
            request.update(stream=True, max_tokens=100)
            reader, writer = await self.send(json.dumps(request).encode())
            await reader.read(generator.choice([1, 200, 2000]))
            writer.transport.abort()
            return
        else:
            reader, writer = await self.send(json.dumps(request).encode())
            answer = b""
            while piece := await reader.read(64 if kind == 77 else 65536):
                answer += piece
                if kind == 77:
                    await asyncio.sleep(0.002)
            counted = answer.count(b'"finish_reason":"length"')
            if b" 200 " not in answer[:20] or counted != 1:
                self.wrong.append(f"{number}: {answer[:300]!r}")
        writer.close()

    async def status(self, reader):
        line = await reader.readline()
        await reader.read()
        return int(line.split()[1]) if line else 0

    async def client(self, end):
        while self.left > end:
            self.left -= 1
            number = self.left
            try:
                await asyncio.wait_for(self.one(number), 120)
            except Exception as error:  # noqa: BLE001
                self.wrong.append(f"{number}: {error!r}")
            self.done += 1

    def remember(self):
        if self.given.pid:
            with open(f"/proc/{self.given.pid}/status") as status:
                sizes = dict(line.split(":") for line in status)
            resident, highest = (int(sizes[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
            self.memory.append(resident)
            print(f"{self.done} requests, {resident:.1f} MiB resident, {highest:.1f} at most, {len(self.wrong)} wrong", flush=True)

    async def run(self):
        while self.left:
            end = max(self.left - 1000, 0)
            await asyncio.gather(*(self.client(end) for _ in range(self.given.clients)))
            # The server sees in its next step that a client left.
            await asyncio.sleep(0.5)
            self.remember()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--pid", type=int)
    soak = Soak(parser.parse_args())
    asyncio.run(soak.run())
    for wrong in soak.wrong[:10]:
        print(wrong, file=sys.stderr)
    growth = max(soak.memory[1:], default=0) / soak.memory[0] - 1 if soak.memory else 0
    print(f"{soak.done} requests, {len(soak.wrong)} wrong, memory grew by {100 * growth:.1f} %")
    sys.exit(bool(soak.wrong) or growth > 0.02)


if __name__ == "__main__":
    main()
