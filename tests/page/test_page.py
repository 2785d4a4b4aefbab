"""Tests the web page of `kvant serve` in headless Chromium, with Playwright.

    python tests/page/test_page.py http://127.0.0.1:8080/ [--axe axe.min.js] [--screenshots DIR] [--chromium PATH]

    pip install playwright && playwright install chromium --with-deps     (or a browser of the system, with --chromium)
    npm install axe-core                                                  (for --axe node_modules/axe-core/axe.min.js)

The server has to run already, with any model that has a chat template. Answers of the model are used where their text
does not matter. All other answers are made by the test: by routes of the browser, or by a `fetch` that sends parts with
pauses. Prints a line for each check, and ends with status 1 at the first check that fails.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

from playwright.sync_api import Error, Page, sync_playwright

# Replaces fetch for chat requests while window.slow is set: parts with pauses, which an abort ends.
SLOW = """
const realFetch = window.fetch;
window.fetch = (path, options) => {
  if (!window.slow || !String(path).includes("completions")) return realFetch(path, options);
  window.lastRequest = JSON.parse(options.body);
  const { parts, pause } = window.slow;
  const bytes = new TextEncoder();
  let timer;
  const stream = new ReadableStream({
    start(control) {
      let index = 0;
      const next = () => {
        const ended = index >= parts.length;
        const chunk = ended
          ? { choices: [{ index: 0, delta: {}, finish_reason: "stop" }] }
          : { choices: [{ index: 0, delta: { content: parts[index++] }, finish_reason: null }] };
        control.enqueue(bytes.encode(`data: ${JSON.stringify(chunk)}\\n\\n`));
        if (ended) { control.enqueue(bytes.encode("data: [DONE]\\n\\n")); control.close(); }
        else timer = setTimeout(next, pause);
      };
      timer = setTimeout(next, pause);
      options.signal.addEventListener("abort", () => {
        window.aborted = true;
        clearTimeout(timer);
        control.error(new DOMException("aborted", "AbortError"));
      });
    },
  });
  return Promise.resolve(new Response(stream, { headers: { "content-type": "text/event-stream" } }));
};
"""

HOSTILE = """# Title <script>window.hacked = 1</script>

<img src=x onerror="window.hacked = 2"> <iframe src="javascript:window.hacked=3"></iframe>

[click](javascript:window.hacked=4) [data](data:text/html,<script>window.hacked=5</script>) [good](https://example.com/a_b)
[tab](java\tscript:window.hacked=6) <javascript:window.hacked=7> ![picture](https://example.com/track.png)

**한국어(굵게)**는 이렇게 됩니다. *기울임*, `code <b>`, ~~old~~.

- one
  - two
    1. three
- [x] done

> quote <svg onload=window.hacked=8>

```html
<script>window.hacked = 9</script>
	tab
```

| a | b |
|:--|--:|
| <img src=x onerror=window.hacked=10> | [x](vbscript:x) |
"""


def stream(*deltas: dict, finish: str = "stop", usage: dict | None = None) -> str:
    """The events of an answer."""
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    last["timings"] = {"predicted_per_second": 42.5, "predicted_n": 7, "prompt_n": 12, "cache_n": 30}
    events += [last, {"choices": [], "usage": usage or {"total_tokens": 49, "completion_tokens": 7}}]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


class Checks:
    def __init__(self, page: Page, address: str, axe: str | None, screenshots: pathlib.Path):
        self.page, self.address, self.screenshots = page, address, screenshots
        self.axe_source = pathlib.Path(axe).read_text(encoding="utf-8") if axe else None
        self.problems: list[str] = []
        self.expected: list[str] = []
        page.on("console", lambda message: self.complain(message.type, message.text))
        page.on("pageerror", lambda error: self.complain("error", str(error)))
        page.on("request", self.see)

    def complain(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(part in text for part in self.expected):
            self.problems.append(f"{kind}: {text}")

    def see(self, request) -> None:
        if not request.url.startswith((self.address, "data:")):
            self.problems.append(f"request to {request.url}")

    def check(self, name: str, condition: object, detail: object = "") -> None:
        assert condition, f"{name}: {detail}"
        assert not self.problems, f"{name}: {self.problems}"
        print(f"ok: {name}", flush=True)

    def open(self) -> None:
        self.page.goto(self.address)
        self.page.wait_for_selector("body[data-ready]")

    def until(self, expression: str) -> None:
        """Waits until an expression is true. Playwright's own function evaluates text, which the policy forbids."""
        end = time.monotonic() + 20
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"not true after 20 s: {expression}"
            self.page.wait_for_timeout(30)

    def fresh(self) -> None:
        """Begins a new conversation."""
        self.page.keyboard.press("Control+Shift+O")
        self.page.wait_for_selector("#empty:not([hidden])")

    def fake(
        self, body: str, status: int = 200, kind: str = "text/event-stream", path: str = "chat/completions"
    ) -> list:
        """Answers chat requests with `body`. Returns the list of requests that come."""
        seen: list = []

        def answer(route):
            seen.append(json.loads(route.request.post_data))
            route.fulfill(status=status, content_type=kind, body=body)

        self.page.route(f"**/v1/{path}", answer)
        return seen

    def send(self, text: str, wait: bool = True) -> None:
        self.page.fill("#input", text)
        self.page.press("#input", "Enter")
        if wait:
            self.page.wait_for_selector(".answer[aria-busy=false]:last-child")
            self.page.wait_for_selector("#send:not([hidden])", state="attached")

    def slow(self, count: int, pause: int, part: str = "line {}\n\n") -> None:
        self.page.evaluate(
            "slow => (window.slow = slow)", {"parts": [part.format(i) for i in range(count)], "pause": pause}
        )

    def real(self) -> None:
        self.page.unroute_all()
        self.page.evaluate("window.slow = null")

    def shot(self, name: str) -> None:
        self.page.screenshot(path=str(self.screenshots / f"{name}.png"))

    def overflow(self) -> int:
        return self.page.evaluate(
            "document.documentElement.scrollWidth - innerWidth + Math.max(0, document.getElementById('scroll').scrollWidth - document.getElementById('scroll').clientWidth)"
        )

    def axe(self, name: str) -> None:
        if self.axe_source is None:
            print(f"skipped: axe, {name} (no --axe)")
            return
        # A running transition would give colours between two themes.
        self.page.wait_for_timeout(300)
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(self.axe_source)
        found = self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        bad = [
            (
                violation["id"],
                [node["html"][:160] + " / " + node["failureSummary"][:300] for node in violation["nodes"][:3]],
            )
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
        minor = sorted(
            violation["id"] for violation in found["violations"] if violation["impact"] not in ("serious", "critical")
        )
        self.check(f"axe: {name}" + (f" (minor: {', '.join(minor)})" if minor else ""), not bad, bad)


def talk(c: Checks) -> None:
    """Checks with the model of the server."""
    page = c.page
    c.open()
    c.check("the page opens, and an empty conversation is shown", page.is_visible("#empty"))
    policy = page.request.get(c.address).headers.get("content-security-policy", "")
    c.check("the page has a content security policy", "default-src 'none'" in policy and "unsafe" not in policy, policy)
    c.check("the server's model is in the status line", page.wait_for_selector("#status span").inner_text())
    page.click("#open-settings")
    page.fill("[data-setting=max_tokens]", "24")
    page.fill("[data-setting=seed]", "7")
    page.click("#settings-done")
    c.send("Say hello.")
    answer = page.inner_text(".answer .content > .text")
    c.check("the model answers", answer.strip(), "no text")
    c.check("the title comes from the first message", page.inner_text("#title") == "Say hello.")
    c.check("the context of the answer is shown", " of " in page.inner_text("#status"), page.inner_text("#status"))
    c.check("a finished answer is announced", page.inner_text("#announce").startswith("Answer:"))
    page.click("[data-action=regenerate]")
    page.wait_for_selector(".answer[aria-busy=false]")
    c.check(
        "the same seed gives the same answer again",
        page.inner_text(".answer .content > .text") == answer,
        page.inner_text(".answer .content > .text"),
    )
    page.reload()
    page.wait_for_selector("body[data-ready]")
    c.check("a reload keeps the conversation", page.inner_text(".answer .content > .text") == answer)
    page.click("#open-settings")
    c.check("a reload keeps the settings", page.input_value("[data-setting=seed]") == "7")
    page.fill("[data-setting=top_p]", "3")
    c.check("a value outside its range is refused", page.inner_text("#settings-error"))
    page.click("#reset")
    c.check("the settings can be reset", page.input_value("[data-setting=seed]") == "")
    page.click("#settings-done")


def streams(c: Checks) -> None:
    """Checks of answers that come slowly."""
    page = c.page
    c.fresh()
    c.slow(400, 15)
    c.send("Count.", wait=False)
    page.wait_for_selector("text=line 3")
    c.check("an answer is shown while it comes", page.is_visible("#stop") and page.is_hidden("#send"))
    c.until("document.getElementById('scroll').scrollHeight > document.getElementById('scroll').clientHeight + 300")
    c.check(
        "the page follows the answer",
        page.evaluate("(s => s.scrollHeight - s.clientHeight - s.scrollTop)(document.getElementById('scroll'))") < 80,
    )
    page.mouse.move(700, 300)
    page.mouse.wheel(0, -250)
    page.wait_for_selector("#to-end:not([hidden])")
    page.wait_for_timeout(150)
    top = page.evaluate("document.getElementById('scroll').scrollTop")
    page.wait_for_timeout(500)
    c.check(
        "the page does not jump down after a scroll up",
        page.evaluate("document.getElementById('scroll').scrollTop") == top,
    )
    page.click("#to-end")
    page.wait_for_timeout(100)
    c.check("the button goes to the end", page.is_hidden("#to-end"))
    page.click("#stop")
    page.wait_for_selector("#send:not([hidden])")
    length = len(page.inner_text(".answer .content > .text"))
    page.wait_for_timeout(200)
    c.check(
        "stop ends the request",
        page.evaluate("window.aborted") and len(page.inner_text(".answer .content > .text")) == length,
    )
    c.check("a stopped answer says so", "Stopped." in page.inner_text(".answer .foot"))
    c.slow(400, 15)
    page.click("[data-action=regenerate]")
    page.wait_for_selector("text=line 5")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:not([hidden])")
    c.check("the key Escape stops", page.locator(".answer").count() == 1)
    page.click("[data-action=regenerate]")
    page.wait_for_selector("text=line 40")
    with page.expect_navigation():
        shown = page.evaluate(
            "(() => { location.reload(); return document.querySelector('.answer .content > .text').textContent; })()"
        )
    page.wait_for_selector("body[data-ready]")
    text = page.text_content(".answer .content > .text")
    c.check(
        "a reload keeps a half-received answer",
        text.startswith(shown) and "line 40" in shown and "Stopped." in page.inner_text(".answer .foot"),
        [shown[-80:], text[-80:]],
    )
    c.slow(60, 40)
    page.click("[data-action=regenerate]")
    page.wait_for_selector("text=line 2")
    first = page.inner_text("#title")
    c.fresh()
    c.slow(2, 10, "other {} ")
    c.send("Another one.")
    c.check("two conversations are answered at the same time", "other 1" in page.inner_text(".answer"))
    page.click(f"#list .name:has-text('{first}')")
    page.wait_for_selector(".answer[aria-busy=false]")
    c.check("an answer goes on in the background", "line 59" in page.inner_text(".answer"))
    c.slow(80, 10, "```py\nprint({})\n```\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n")
    page.evaluate(
        "window.changed = 0; new MutationObserver(all => all.forEach(one => one.removedNodes.forEach(node => { if (node.nodeType === 1 && (node.matches('pre, table') || node.querySelector('pre, table'))) window.changed++; }))).observe(document.getElementById('messages'), { childList: true, subtree: true })"
    )
    c.send("Blocks.")
    c.check(
        "code and tables are not made again while the answer grows",
        page.evaluate("window.changed") == 0,
        page.evaluate("window.changed"),
    )
    c.real()


def messages(c: Checks) -> None:
    """Editing, conversations, errors, raw completion."""
    page = c.page
    c.fresh()
    seen = c.fake(stream({"content": "first"}))
    c.send("One")
    c.send("Two")
    c.check(
        "earlier messages are sent", [m["content"] for m in seen[-1]["messages"]] == ["One", "first", "Two"], seen[-1]
    )
    c.check(
        "a stream with usage is requested", seen[-1]["stream"] and seen[-1]["stream_options"] == {"include_usage": True}
    )
    c.check(
        "speed and context of the last answer are shown",
        "42.5 tokens/s" in page.inner_text("#status") and "49 of" in page.inner_text("#status"),
        page.inner_text("#status"),
    )
    page.locator(".user").first.hover()
    page.locator("[data-action=edit]").first.click()
    page.fill(".editing textarea", "Other")
    page.press(".editing textarea", "Enter")
    page.wait_for_selector(".answer[aria-busy=false]")
    c.check(
        "an edit drops what follows",
        page.locator(".message").count() == 2 and [m["content"] for m in seen[-1]["messages"]] == ["Other"],
        seen[-1],
    )
    page.fill("#input", "line")
    page.press("#input", "Shift+Enter")
    c.check("Shift+Enter begins a line", page.input_value("#input") == "line\n")
    page.fill("#input", "한")
    page.evaluate(
        "document.getElementById('input').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }))"
    )
    c.check(
        "Enter during a composition sends nothing",
        page.input_value("#input") == "한" and page.locator(".message").count() == 2,
    )
    keyboard = page.context.new_cdp_session(page)
    page.fill("#input", "")
    keyboard.send("Input.imeSetComposition", {"text": "안", "selectionStart": 1, "selectionEnd": 1})
    page.keyboard.press("Enter")
    c.check("the same with the browser's own composition", page.locator(".message").count() == 2)
    keyboard.send("Input.insertText", {"text": "안녕"})
    page.press("#input", "Enter")
    page.wait_for_selector(".answer[aria-busy=false] >> nth=1")
    c.check("a composed text is sent whole", seen[-1]["messages"][-1]["content"].endswith("안녕"), seen[-1])
    page.fill("#input", "한")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    c.check("a reload keeps the message that is written", page.input_value("#input") == "한")
    page.fill("#input", "")
    entry = page.locator("#list li.current")
    entry.locator(".small").first.click()
    page.fill("#list input", "Renamed")
    page.press("#list input", "Enter")
    c.check("a conversation can be renamed", page.inner_text("#title") == "Renamed")
    count = page.locator("#list li").count()
    page.locator("#list li.current .small").nth(1).click()
    page.click("#ask-no")
    c.check("deleting can be cancelled", page.locator("#list li").count() == count)
    page.locator("#list li.current .small").nth(1).click()
    page.click("#ask-yes")
    c.until(f"document.querySelectorAll('#list li').length === {count - 1}")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    c.check("a conversation can be deleted", page.locator("#list li:has-text('Renamed')").count() == 0)
    c.real()
    c.fresh()
    c.expected.append("status of 400")
    c.fake(json.dumps({"error": {"message": "bad <b>value</b>"}}), 400, "application/json")
    c.send("Error")
    c.check("an error with a status is shown as text", "bad <b>value</b>" in page.inner_text(".answer .error"))
    c.real()
    c.fake('data: {"choices":[{"delta":{"content":"half"}}]}\n\ndata: {"error":{"message":"network broke"}}\n\n')
    page.click("[data-action=regenerate]")
    page.wait_for_selector(".answer[aria-busy=false] .error")
    c.check(
        "an error inside of a stream is shown, with the text before it",
        "network broke" in page.inner_text(".answer .error") and "half" in page.inner_text(".answer .content > .text"),
    )
    c.real()
    c.fake(stream({"reasoning_content": "because"}, {"content": "so"}, finish="length"))
    page.click("[data-action=regenerate]")
    page.wait_for_selector(".answer[aria-busy=false] details:not([hidden])")
    c.check(
        "reasoning is in closed details", not page.is_visible("text=because") and page.is_visible(".answer summary")
    )
    page.click(".answer summary")
    c.check("reasoning can be opened", page.is_visible("text=because"))
    c.check("an answer that reached its limit says so", "largest number" in page.inner_text(".answer .foot"))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click(".answer [data-action=copy]")
    c.check("an answer can be copied", page.evaluate("navigator.clipboard.readText()") == "so")
    c.real()
    c.expected.append("status of 401")
    c.fake(
        json.dumps({"error": {"message": "Invalid API Key", "type": "authentication_error"}}), 401, "application/json"
    )
    c.send("Key")
    page.click("#notice button:has-text('Settings')")
    page.fill("[data-setting=key]", "secret-1")
    page.click("#settings-done")
    kept = "[localStorage.getItem('kvant.key'), sessionStorage.getItem('kvant.key')]"
    c.check(
        "the API key stays in the tab",
        page.evaluate(kept) == [None, "secret-1"] and "secret-1" not in page.evaluate("JSON.stringify(localStorage)"),
    )
    page.click("#open-settings")
    page.check("[data-setting=remember]")
    c.check("the API key is kept if the user wants it", page.evaluate(kept) == ["secret-1", None])
    page.click("#reset")
    page.click("#settings-done")
    c.check("a reset forgets the key", page.evaluate(kept) == [None, None])
    c.real()
    c.fake(
        json.dumps({"error": {"message": "the model has no chat template; /v1/completions takes raw text"}}),
        400,
        "application/json",
    )
    seen = c.fake(
        'data: {"choices":[{"text":" upon a time","finish_reason":null}]}\n\ndata: {"choices":[{"text":"","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
        path="completions",
    )
    c.fresh()
    c.send("Once")
    c.check(
        "a model without a template gets a raw completion",
        seen[-1]["prompt"] == "Once"
        and "upon a time" in page.inner_text(".answer")
        and "raw completion" in page.inner_text("#status"),
        page.inner_text("#status"),
    )
    page.reload()
    page.wait_for_selector("body[data-ready]")
    c.real()


def drop(c: Checks, files: list) -> None:
    """Drops files, given as (name, bytes or text), on the page."""
    c.page.evaluate(
        """files => {
          const data = new DataTransfer();
          for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name));
          for (const type of ["dragenter", "dragover", "drop"])
            document.getElementById("scroll").dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [[name, list(contents)] for name, contents in files],
    )


def files(c: Checks) -> None:
    page = c.page
    c.fresh()
    seen = c.fake(stream({"content": "read"}))
    drop(
        c,
        [
            ("notes.md", "# 제목\n```\ncode\n```\n".encode()),
            ("program.bin", b"\x7fELF\x00\xff"),
            ("nul.txt", b"a\0b"),
            ("large.txt", b"a" * (256 * 1024 + 1)),
        ],
    )
    page.wait_for_selector("#files li")
    page.wait_for_selector("#notice p")
    notice = page.inner_text("#notice")
    c.check(
        "files that are no text, and large ones, are refused",
        all(name in notice for name in ("program.bin", "nul.txt", "large.txt"))
        and page.locator("#files li").count() == 1,
        notice,
    )
    page.set_input_files(
        "#choose",
        [
            {"name": "a.py", "mimeType": "text/x-python", "buffer": b"print(1)\n"},
            {"name": "b.txt", "mimeType": "text/plain", "buffer": b"b"},
        ],
    )
    c.until("document.querySelectorAll('#files li').length === 3")
    page.click("#files li:last-child button")
    c.shot("files")
    c.axe("files and a notice")
    c.send("Read these.")
    expected = "Read these.\n\nnotes.md\n````md\n# 제목\n```\ncode\n```\n````\n\na.py\n```py\nprint(1)\n```"
    c.check(
        "dropped and chosen files are fenced blocks of the message",
        seen[-1]["messages"][-1]["content"] == expected,
        seen[-1],
    )
    c.check("files are shown with the message", page.locator(".user details.file").count() == 2)
    c.real()


def hostile(c: Checks) -> None:
    page = c.page
    c.fresh()
    huge = (
        "| a | b | c | d |\n|---|---|---|---|\n"
        + "| cell | **bold** | `code` | <img src=x onerror=window.hacked=11> |\n" * 3000
    )
    wide = "|" + " x |" * 400 + "\n|" + "---|" * 400 + "\n|" + " y |" * 400 + "\n\n"
    deep = "\n".join("  " * depth + "- deep" for depth in range(60)) + "\n\n" + ">" * 300 + " quote\n\n"
    parts = [HOSTILE[i : i + 17] for i in range(0, len(HOSTILE), 17)] + [wide, deep, huge]
    c.fake(stream(*({"content": part} for part in parts)))
    c.send("Attack.")
    page.wait_for_timeout(300)
    c.check("hostile text does not run", page.evaluate("window.hacked") is None, page.evaluate("window.hacked"))
    hrefs = page.evaluate("[...document.querySelectorAll('#messages a')].map(a => [a.href, a.rel, a.target])")
    c.check(
        "only links of the web are links",
        hrefs
        == [
            ["https://example.com/a_b", "noopener noreferrer", "_blank"],
            ["https://example.com/track.png", "noopener noreferrer", "_blank"],
        ],
        hrefs,
    )
    c.check(
        "no element of the text was made",
        page.locator("#messages :is(img, script, iframe, svg:not(.icon), style, form, input)").count() == 0,
    )
    c.check("a huge table is shown", page.locator("#messages tr").count() > 3000)
    c.check("tables and deep lists do not widen the page", c.overflow() <= 0, c.overflow())
    text = page.inner_html(".answer .content > .text")
    c.check(
        "Markdown is shown",
        all(
            part in text
            for part in (
                "<strong>한국어(굵게)</strong>는",
                "<em>기울임</em>",
                "<del>old</del>",
                "<blockquote>",
                '<th class="right">',
            )
        )
        and "<h3" in text,
    )
    page.locator("[data-copy]").first.click()
    c.check(
        "code can be copied with its tabs",
        page.evaluate("navigator.clipboard.readText()") == "<script>window.hacked = 9</script>\n\ttab",
    )
    page.set_viewport_size({"width": 360, "height": 740})
    c.check("the same at 360 pixels", c.overflow() <= 0, c.overflow())
    page.set_viewport_size({"width": 1200, "height": 800})
    c.real()


SAMPLE = """The KV cache keeps the keys and values of earlier tokens. **Decode** then reads one token a step.

1. Prefill computes all prompt tokens in one batch.
2. Decode computes one token a step:
   - it reads all weights,
   - it appends one entry to the cache.

| Step | Bound by | Tokens |
|:-----|:---------|-------:|
| prefill | arithmetic | 512 |
| decode | memory | 1 |

```rust
fn bytes(tokens: usize, width: usize) -> usize {
    2 * tokens * width * size_of::<f16>()
}
```

See [the paper](https://example.com/paper) for `head_dim`.
"""
KOREAN = """KV 캐시는 이전 토큰의 키와 값을 저장합니다. **디코드(decode)**는 한 번에 토큰 하나를 읽습니다.

### 순서

1. 프리필은 프롬프트 전체를 한 번에 계산합니다.
2. 디코드는 토큰을 하나씩 계산합니다.
   - 모든 가중치를 읽습니다.

> 메모리 대역폭이 속도를 정합니다.
"""


def looks(c: Checks) -> None:
    """Themes, phones, languages, accessibility."""
    page = c.page
    c.fresh()
    c.axe("empty conversation, light")
    c.shot("empty")
    seen = c.fake(stream({"reasoning_content": "The user asks about caches."}, {"content": SAMPLE}))
    c.send("Explain the KV cache in a few lines, with a table and a line of code.")
    page.mouse.move(600, 5)
    c.axe("conversation, light")
    c.shot("light")
    page.click("#theme")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    c.check("the theme can be switched to dark", ground == "rgb(23, 25, 26)", ground)
    page.mouse.move(600, 5)
    c.axe("conversation, dark")
    c.shot("dark")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    c.check("a reload keeps the theme", page.evaluate("document.documentElement.dataset.theme") == "dark")
    page.click("#open-settings")
    c.axe("settings, dark")
    c.shot("settings-dark")
    page.keyboard.press("Escape")
    page.click("#theme")
    page.emulate_media(color_scheme="dark")
    page.click("#open-settings")
    page.select_option("[data-setting=theme]", "")
    c.check("the theme follows the system", page.evaluate("getComputedStyle(document.body).backgroundColor") == ground)
    page.emulate_media(color_scheme="light")
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 360, "height": 740})
    c.check("360 pixels need no horizontal scroll", c.overflow() <= 0, c.overflow())
    c.axe("phone")
    c.shot("phone")
    c.check("the list is hidden on a phone", not page.is_visible("#side"))
    page.click("#menu")
    page.wait_for_timeout(300)
    c.check(
        "the list is a drawer on a phone",
        page.is_visible("#new") and page.evaluate("document.getElementById('body').inert"),
    )
    c.axe("phone, drawer")
    c.shot("phone-drawer")
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    c.check("the key Escape closes the drawer", not page.is_visible("#side"))
    page.click("#open-settings")
    c.check(
        "the settings fit a phone",
        c.overflow() <= 0
        and page.evaluate("(d => d.scrollWidth <= d.clientWidth)(document.getElementById('settings'))"),
    )
    c.shot("phone-settings")
    page.select_option("[data-setting=language]", "ko")
    c.check(
        "the language can be switched",
        page.evaluate("document.documentElement.lang") == "ko" and page.inner_text("#settings-title") == "설정",
    )
    page.keyboard.press("Escape")
    c.real()
    seen = c.fake(stream({"content": KOREAN}))
    c.fresh()
    c.send("KV 캐시를 짧게 설명해 주세요.")
    c.check(
        "a Korean message arrives unchanged", seen[-1]["messages"][-1]["content"] == "KV 캐시를 짧게 설명해 주세요."
    )
    c.check("360 pixels suffice for Korean", c.overflow() <= 0, c.overflow())
    c.shot("phone-korean")
    page.set_viewport_size({"width": 1200, "height": 800})
    page.mouse.move(600, 5)
    c.axe("conversation, Korean")
    c.shot("korean")
    page.keyboard.press("Tab")
    reached = []
    for _ in range(60):
        reached.append(
            page.evaluate("(e => e.id || e.dataset.action || e.className || e.localName)(document.activeElement)")
        )
        page.keyboard.press("Tab")
    missing = {"new", "scroll", "theme", "open-settings", "input", "attach", "copy", "edit", "regenerate"} - set(
        reached
    )
    c.check("the keyboard reaches all controls", not missing, missing)
    c.real()


def korean_browser(c: Checks, browser) -> None:
    context = browser.new_context(locale="ko-KR")
    page = context.new_page()
    page.goto(c.address)
    page.wait_for_selector("body[data-ready]")
    c.check(
        "a Korean browser gets the Korean page",
        page.inner_text("#new") == "새 대화" and page.evaluate("document.documentElement.lang") == "ko",
    )
    context.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--axe", help="the file axe.min.js of the npm package axe-core")
    parser.add_argument("--screenshots", type=pathlib.Path, help="a folder for screenshots")
    parser.add_argument("--chromium", help="the browser, if Playwright's own is not installed")
    arguments = parser.parse_args()
    address = arguments.address.rstrip("/") + "/"
    screenshots = arguments.screenshots or pathlib.Path(tempfile.mkdtemp(prefix="kvant-page-"))
    screenshots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium)
        context = browser.new_context(
            locale="en-US", viewport={"width": 1200, "height": 800}, color_scheme="light", reduced_motion="reduce"
        )
        context.add_init_script(SLOW)
        page = context.new_page()
        page.set_default_timeout(20_000)
        c = Checks(page, address, arguments.axe, screenshots)
        try:
            for part in (talk, streams, messages, files, hostile, looks):
                part(c)
            korean_browser(c, browser)
            c.check("no error in the console, and no request to another server", not c.problems, c.problems)
        except (AssertionError, Error) as error:
            print(f"FAILED: {error}", flush=True)
            print(f"problems: {c.problems}")
            c.shot("failed")
            return 1
        finally:
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
