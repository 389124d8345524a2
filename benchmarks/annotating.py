"""How fast the annotation server is while fifty people answer: one table, for NUMBERS.md.

    python -m benchmarks.annotating
    pg_virtualenv -o fsync=on python -m benchmarks.annotating --database postgresql:///postgres

Starts `advex annotate serve` as a process on `--images` pairs of pictures of CIFAR's size, and people who do what the
page does: ask for the next pictures before those they have run out, load both of each, send one answer after the other,
each over one connection that stays. First for `--seconds` like people, who think for 1.5 to 3 seconds; then without
thinking, until `--answers` are given: as fast as the server can. `--browsers` of them are pages in a real Chromium that
press a key every 0.4 to 0.8 seconds. Everybody's first pictures are there before the clock starts.

`kept` is the time from sending an answer to its acknowledgement, which comes after the commit. `shown`, measured in the
browsers, is the time from a key press (the event's own stamp) to the end of the first frame whose picture is the next
one, decoded; at 60 frames a second a frame alone takes 17 ms. `loaded` is the time of one picture. People, browsers,
database and server share the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import itertools
import json
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advex.annotation import ANSWERS, PICTURES
from advex.annotation.store import NewImage, Store

LOW, MORE = 8, 12  # as in static/supply.js
THINKING, PRESSING = (1.5, 3.0), (0.4, 0.8)  # seconds
MEASURES = ("kept", "shown", "loaded")
COLUMNS = ("people", "answers", "a second", *(f"{each} {q}" for each in MEASURES for q in ("50 %", "95 %", "99 %")))
WATCH = """
window.shown = [];
addEventListener("keydown", (event) => {
  const image = document.getElementById("changed");
  const [before, began] = [image.src, event.timeStamp];
  const look = () => {
    if (image.src === before || !image.complete) return requestAnimationFrame(look);
    const painted = new MessageChannel();  // its message comes once this frame is drawn
    painted.port1.onmessage = () => window.shown.push(performance.now() - began);
    painted.port2.postMessage(0);
  };
  requestAnimationFrame(look);
}, true);
"""


class Tally:
    """What happened so far. seconds: by measure; statuses: of every response."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.start()

    def start(self) -> None:
        """The clock starts now."""
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.began = time.monotonic()

    def row(self, people: int, answers: int) -> list[str]:
        """A line of the table; times in milliseconds."""
        took = time.monotonic() - self.began
        cells = [str(people), f"{answers:,}", f"{answers / took:.0f}"]
        for measure in MEASURES:
            milliseconds = 1000 * np.array(self.seconds[measure] or [np.nan])
            cells += [f"{value:.0f}" for value in np.quantile(milliseconds, [0.5, 0.95, 0.99])]
        return cells


class Person(threading.Thread):
    """Somebody at work. go_on: asked before every answer."""

    def __init__(self, port: int, link: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.random = random.Random(seed)
        self.numbers = itertools.count()
        self.waiting: list[str] = []
        self.seen: set[str] = set()
        self.headers = {"X-Advex": "enter", "Content-Type": "application/json"}
        self.tally = Tally()
        self.go_on: Callable[[], bool] = lambda: False
        self.thinking = THINKING
        self._enter(link.partition("#")[2])

    def _enter(self, token: str) -> None:
        self.ask("POST", "/api/session", {"token": token})
        cookie = self.answer.getheader("set-cookie") or ""
        self.headers["Cookie"] = cookie.partition(";")[0]
        found = re.search(r'name="csrf" content="(\w+)"', self.ask("GET", "/").decode())
        assert found is not None, "no page came"
        self.headers["X-CSRF-Token"] = found[1]

    def ask(self, method: str, path: str, body: Any = None) -> bytes:
        """The body of a response, whose status is counted."""
        for again in (True, False):  # like a browser, where a connection that rested was closed meanwhile
            try:
                self.http.request(method, path, body and json.dumps(body), self.headers)
                self.answer = self.http.getresponse()
                break
            except ConnectionError:
                self.http.close()
                if not again:
                    raise
        self.tally.statuses[self.answer.status] += 1
        return self.answer.read()

    @contextmanager
    def timed(self, measure: str) -> Iterator[None]:
        """Adds how long the block takes."""
        began = time.perf_counter()
        yield
        self.tally.seconds[measure].append(time.perf_counter() - began)

    def fill(self) -> None:
        """Ask for more pictures and load them, before there are none."""
        if len(self.waiting) >= LOW:
            return
        found = json.loads(self.ask("GET", f"/api/next?count={MORE + len(self.waiting) + 1}"))
        for key in [each["key"] for each in found["images"] if each["key"] not in self.seen]:
            for which in ("original", "changed"):
                with self.timed("loaded"):
                    self.ask("GET", f"/pictures/{key}/{which}")
            self.seen.add(key)
            self.waiting.append(key)

    def run(self) -> None:
        """Answer until told otherwise."""
        time.sleep(self.random.uniform(0, self.thinking[1]))
        while self.go_on():
            self.fill()
            time.sleep(self.random.uniform(*self.thinking))
            body = {"image": self.waiting.pop(0), "answer": self.random.choice(ANSWERS), "milliseconds": 1500}
            with self.timed("kept"):
                self.ask("POST", "/api/answers", {"client": f"{id(self):x}-{next(self.numbers):08}", **body})

    def again(self, tally: Tally, go_on: Callable[[], bool], thinking: tuple[float, float]) -> Person:
        """The same person, for another stretch of work: a thread runs once."""
        next_one = Person.__new__(Person)
        next_one.__dict__.update({name: value for name, value in vars(self).items() if not name.startswith("_")})
        threading.Thread.__init__(next_one, daemon=True)
        next_one.tally, next_one.go_on, next_one.thinking = tally, go_on, thinking
        return next_one


def make_project(folder: Path, database: str | None, images: int, votes: int) -> None:
    """Pairs of random pictures, enough for everybody."""
    rng = np.random.default_rng(0)
    (folder / PICTURES).mkdir(parents=True)
    names = []
    for _ in range(2 * images):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        names.append(hashlib.sha256(file.getvalue()).hexdigest())
        (folder / PICTURES / f"{names[-1]}.png").write_bytes(file.getvalue())
    store = Store(folder, database)
    store.create_project("load", votes=votes, seed=0, alone=False, about={})
    pairs = zip(names[::2], names[1::2], strict=True)
    store.add_images([NewImage(label="cat", original=one, changed=other) for one, other in pairs])
    store.close()


@contextmanager
def serving(folder: Path, database: str | None, names: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """A server as a process: its port, and the links by name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "advex", "annotate", "serve", str(folder), "--port", str(port)]
    command += [part for name in names for part in ("--annotator", name)]
    command += ["--database", database] if database else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        links = dict(process.stdout.readline().rstrip("\n").split("\t") for _ in [*names, "owner"])
        process.stderr.readline()  # "serving ..."
        yield port, links
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def browsing(links: Sequence[str]) -> Iterator[list[Any]]:
    """Pages in a Chromium, each with its first pictures."""
    if not links:
        yield []
        return
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        pages = []
        for link in links:
            page = chromium.new_context().new_page()
            page.add_init_script(WATCH)
            page.goto(link)
            page.wait_for_selector("#question:not([hidden])")
            pages.append(page)
        yield pages
        chromium.close()


def work(people: Sequence[Person], pages: Sequence[Any], *, seconds: float = 0, answers: int = 0) -> list[str]:
    """A stretch of work: so many seconds with thinking, or so many answers without. Returns a line of the table."""
    tally, left = Tally(), itertools.count(answers, -1)
    if seconds:
        working = [person.again(tally, lambda: time.monotonic() < tally.began + seconds, THINKING) for person in people]
    else:
        working = [person.again(tally, lambda: next(left) > 0, (0.0, 0.0)) for person in people]
    with ThreadPoolExecutor(4) as together:
        list(together.map(Person.fill, working))
    for page in pages:
        page.evaluate("window.shown.length = 0")
    tally.start()
    for person in working:
        person.start()
    while any(person.is_alive() for person in working):
        for page in pages:
            page.keyboard.press(random.choice("123"))
            page.wait_for_timeout(1000 * random.uniform(*PRESSING) / len(pages))
        if not pages:
            working[0].join(0.5)
    given = len(tally.seconds["kept"])
    for page in pages:
        tally.seconds["shown"] += [value / 1000 for value in page.evaluate("window.shown")]
    row = tally.row(len(people) + len(pages), given + len(tally.seconds["shown"]))
    refused = {status: number for status, number in tally.statuses.items() if status >= 400}
    print(f"{'people who think' if seconds else 'answers without a pause'}: {len(tally.seconds['shown'])} "
          f"answers in browsers; refused: {refused or 'none'}", file=sys.stderr)  # fmt: skip
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--browsers", type=int, default=2, help="how many of them are pages in Chromium")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--votes", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60, help="of work with thinking")
    parser.add_argument("--answers", type=int, default=5000, help="without thinking")
    parser.add_argument("--database", help="URL of an empty PostgreSQL database; default: SQLite in a new folder")
    given = parser.parse_args()
    names = [f"person {number}" for number in range(given.annotators)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "project"
        make_project(folder, given.database, given.images, given.votes)
        port, links = stack.enter_context(serving(folder, given.database, names))
        pages = stack.enter_context(browsing([links[name] for name in names[: given.browsers]]))
        people = [Person(port, links[name], seed) for seed, name in enumerate(names[given.browsers :])]
        rows = [work(people, pages, seconds=given.seconds)] if given.seconds else []
        rows += [work(people, pages, answers=given.answers)] if given.answers else []
    kind = "PostgreSQL" if given.database else "SQLite"
    print(f"{kind}, {given.images:,} images, {platform.processor() or platform.machine()}; milliseconds\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'--:|' * len(COLUMNS)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
