"""Takes the documentation's pictures of reports, and of the pages that ask people, with simulated answers.

    advex annotate prepare --model builtin:cifar10-robust --data cifar10 --max-samples 40 \\
        --name 'Still a cat?' --out hitl
    python -m benchmarks.screenshots --project hitl --out docs/images
    advex compare --model builtin:cifar10-ordinary,builtin:cifar10-robust --data cifar10-sample --out record
    advex train loans.csv && advex evaluate --model runs/loans --data loans.csv --out rows
    python -m benchmarks.screenshots --record record --rows rows --out docs/images

The project is left as it is: its images are copied into scratch ones, which two simulated people answer.
Needs playwright and a Chromium. A further page is a further function in SHOTS.
"""

from __future__ import annotations

import argparse
import io
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from advex.annotation import ANSWERS, PICTURES, people
from advex.annotation.store import NewImage, Store

MOST_BYTES = 200_000
DESKTOP: dict[str, Any] = {
    "viewport": {"width": 1280, "height": 800},
    "device_scale_factor": 2,
    "color_scheme": "light",
}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True, "is_mobile": True,
}  # fmt: skip
COPIED = ("label", "changed", "original", "source", "source_id", "model", "search", "target", "rmse", "confidences")
SHARES = {"unchanged": 0.7, "unsure": 0.12, "changed": 0.18}  # of the simulated answers
AGREED = 0.7  # of the second person's, with the first one's
PACE = 4_000  # milliseconds for an answer
EXPLORED = ("--model", "builtin:cifar10-robust", "--data", "cifar10-sample")


def copied(project: Path, folder: Path, *, alone: bool) -> Store:
    """The images of a project as a new one, in which nobody has answered."""
    given = Store(project)
    shutil.copytree(project / PICTURES, folder / PICTURES)
    store = Store(folder)
    store.create_project(given.project().name, votes=2, seed=3, alone=alone, about={})
    store.add_images([NewImage(**{name: getattr(image, name) for name in COPIED}) for image in given.images()])
    given.close()
    return store


def answered(store: Store, name: str, number: int | None, seen: dict[str, str]) -> None:
    """Let somebody answer so many images, or all. seen: the first person's answers by image, added to or followed."""
    draw = random.Random(name)
    people.invite(store.database, name)
    guest = next(each for each in people.people(store.database) if each.name == name)
    images = store.next(guest.id, number or len(store.images()))
    for image in images:
        own = draw.choices(ANSWERS, [SHARES[answer] for answer in ANSWERS])[0]
        answer = seen.setdefault(image.key, own) if draw.random() < AGREED else own
        store.answer(guest.id, client=f"{name}-{image.key}", image=image.key, answer=answer, milliseconds=PACE)


@contextmanager
def served(store: Store) -> Iterator[dict[str, str]]:
    """A server of the project, with a bundled network to explore. Gives everybody's link, renewed."""
    names = [guest.name for guest in people.people(store.database) if not guest.owner]
    command = [sys.executable, "-m", "advex", "annotate", "serve", str(store.folder), "--port", "0", *EXPLORED]
    command += [part for name in names for part in ("--new-link", name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline().rstrip("\n").partition("\t") for _ in (*names, "owner")]
            links = {name: link for name, _, link in lines}
            _listens(urlsplit(links["owner"]).port or 80)
            yield links
        finally:
            process.terminate()


def _listens(port: int) -> None:
    """Wait until the server does."""
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    sys.exit("The server did not start.")


class Camera:
    """Opens links in a browser, and keeps what is seen there."""

    def __init__(self, browser: Any, links: dict[str, str], out: Path) -> None:
        self.browser, self.links, self.out = browser, links, out

    @contextmanager
    def page(self, name: str, **options: Any) -> Iterator[Any]:
        """Somebody's page."""
        context = self.browser.new_context(**options, reduced_motion="reduce")
        tab = context.new_page()
        tab.clock.install()
        tab.goto(self.links[name])
        yield tab
        context.close()

    def keep(self, tab: Any, name: str, **options: Any) -> None:
        """Write what is shown of a page, or of a part of it; with a palette only where it would be too large."""
        path = self.out / f"annotate-{name}.png"
        taken = Image.open(io.BytesIO(tab.screenshot(**options))).convert("RGB")
        taken.save(path, optimize=True)
        if path.stat().st_size > MOST_BYTES:
            taken.quantize(256, kmeans=4, dither=Image.Dither.NONE).save(path, optimize=True)
        size = path.stat().st_size
        print(f"{path}  {taken.width} x {taken.height}, {size / 1000:.0f} kB")
        if size > MOST_BYTES:
            sys.exit(f"{path} is larger than {MOST_BYTES / 1000:.0f} kB.")


def _answer(tab: Any, answers: str) -> None:
    """By keys, at a steady pace."""
    for key in answers:
        tab.wait_for_selector("#question:not([hidden])")
        tab.clock.run_for(PACE)
        tab.keyboard.press(key)
    tab.wait_for_selector("#question:not([hidden])")
    tab.get_by_text("All answers saved", exact=True).wait_for()


def asking(camera: Camera) -> None:
    """The question, on a desk and on a phone, and with the difference."""
    with camera.page("ben", **DESKTOP) as tab:
        _answer(tab, "11311")
        camera.keep(tab, "asking")
        tab.keyboard.press("d")
        camera.keep(tab, "difference")
    with camera.page("ben", **PHONE, color_scheme="dark") as tab:
        _answer(tab, "121")
        camera.keep(tab, "phone")


def done(camera: Camera) -> None:
    """Nothing left."""
    with camera.page("anna", **PHONE, color_scheme="light") as tab:
        tab.get_by_role("heading", name="All done").wait_for()
        tab.wait_for_selector("#undo[aria-disabled=false]")
        camera.keep(tab, "done")


def owner(camera: Camera) -> None:
    """Agreement and disagreements."""
    with camera.page("owner", **DESKTOP) as tab:
        tab.get_by_text("live", exact=True).wait_for()
        camera.keep(tab, "owner")
        part = tab.locator("section[aria-labelledby=disputed]")
        for image in part.locator("img").all():  # they load as they come into view
            image.scroll_into_view_if_needed()
            image.evaluate("image => image.decode()")
        camera.keep(part, "disagreements")
    with camera.page("owner", **PHONE, color_scheme="light") as tab:
        tab.get_by_text("live", exact=True).wait_for()
        camera.keep(tab, "owner-phone")


def explore(camera: Camera) -> None:
    """A car on its way to a ship."""
    desk = {**DESKTOP, "viewport": {"width": 1280, "height": 1000}, "device_scale_factor": 1.5}
    for name, options in (("explore", desk), ("explore-phone", {**PHONE, "color_scheme": "dark"})):
        with camera.page("owner", **options) as tab:
            tab.get_by_role("link", name="Explore").click()
            tab.locator("#thumbnails input").nth(3).check(force=True)
            tab.get_by_label("Towards the class").select_option(label="ship")
            tab.get_by_label("Size of the change").fill("0.15")
            tab.get_by_text("RMSE 0.1500").first.wait_for()
            tab.locator(".subject").evaluate("each => innerWidth < 500 && each.scrollIntoView()")
            camera.keep(tab, name)


def alone(camera: Camera) -> None:
    """The changed picture first, without its original."""
    with camera.page("anna", **PHONE, color_scheme="light") as tab:
        tab.wait_for_selector("#question:not([hidden])")
        camera.keep(tab, "alone")


def reports(browser: Any, record: Path, rows: Path, out: Path) -> None:
    """The first screen of a report, on a desk in light and dark and on a phone; a row of a table with its waterfall."""
    phone, page = {**PHONE, "viewport": {"width": 400, "height": 860}}, (record / "report.html").resolve().as_uri()
    desk = {**DESKTOP, "viewport": {"width": 1400, "height": 900}, "device_scale_factor": 1}
    for name, options in (("", desk), ("-dark", {**desk, "color_scheme": "dark"}), ("-phone", phone)):
        tab = browser.new_context(**options).new_page()
        tab.goto(page)
        tab.screenshot(path=out / f"report{name}.png")
    tab = browser.new_context(**{**desk, "viewport": {"width": 1100, "height": 900}}).new_page()
    tab.goto((rows / "report.html").resolve().as_uri())
    sheets = tab.locator(".row-sheet")
    changes = [sheets.nth(place).locator(".told-change").last.locator("[data-change]").count()
               for place in range(sheets.count())]  # fmt: skip
    sheets.nth(changes.index(max(changes))).screenshot(path=out / "report-row.png")


# What is shown of which project: how many images each person answered (None: all), and whether pictures come alone.
SHOTS: tuple[tuple[dict[str, int | None], bool, tuple[Callable[[Camera], None], ...]], ...] = (
    ({"anna": None, "ben": 12}, False, (asking,)),
    ({"anna": None, "ben": 34}, False, (done, owner, explore)),
    ({"anna": 3}, True, (alone,)),
)


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, help="Of the pages that ask people.")
    parser.add_argument("--record", type=Path, help="With report.html: of the report.")
    parser.add_argument("--rows", type=Path, help="Of a table, with report.html.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="The browser's program.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        if arguments.record is not None:
            reports(browser, arguments.record, arguments.rows or arguments.record, arguments.out)
        for number, (given, by_itself, shots) in enumerate(SHOTS if arguments.project else ()):
            store = copied(arguments.project, Path(scratch) / str(number), alone=by_itself)
            seen: dict[str, str] = {}
            for name, images in given.items():
                answered(store, name, images, seen)
            with served(store) as links:
                for shot in shots:
                    shot(Camera(browser, links, arguments.out))
            store.close()


if __name__ == "__main__":
    main()
