"""The HTML pages. Templates escape every name; nothing is fetched from other servers."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from advex.annotation import ANSWERS, PICTURES, instructions, people
from advex.annotation.agreement import Agreement, Interval, agreement, by_class, disputed
from advex.annotation.people import Guest
from advex.annotation.security import csrf_token
from advex.annotation.store import Store, Vote, now
from advex.annotation.web import page, templates

_HERE = Path(__file__).parent
_MOST_DISPUTED = 60  # pictures on a page
_MOST_CLASSES = 200
_DRAWS = 1000
_MEASURES = (
    ("percent", "Percent agreement", "pairs of answers that are equal"),
    ("cohen", "Cohen's κ", "mean over pairs of people"),
    ("fleiss", "Fleiss' κ", "beyond chance, all people"),
    ("alpha", "Krippendorff's α", "nominal, answers may be missing"),
)


def annotate(store: Store, guest: Guest, session: str) -> str:
    """The page that asks an annotator."""
    read = instructions.of_project(store.folder)
    return page("annotate.html.j2", project=store.project(), guest=guest, csrf=csrf_token(session), instructions=read)


def owner(store: Store, *, explores: bool = False) -> str:
    """The owner's page: the answers so far. explores: whether there is an explore page."""
    return page("owner.html.j2", project=store.project(), explores=explores, **_live(store))


def live(store: Store) -> str:
    """The part of the owner's page that changes."""
    return page("live.html.j2", **_live(store))


def standalone(store: Store) -> str:
    """The owner's page as one file, with its pictures inside."""
    content = _live(store)
    for each in content["disputed"]:
        each["original"], each["changed"] = (_inlined(store, each["files"][which]) for which in ("original", "changed"))
    style = (_HERE / "static" / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return page("standalone.html.j2", project=store.project(), style=Markup(style), style_hash=digest, **content)


def _inlined(store: Store, name: str | None) -> str | None:
    path = store.folder / PICTURES / f"{name}.png"
    if name is None or not path.is_file():
        return None
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


# -- what the owner sees ---------------------------------------------------------------------------------------


def _live(store: Store) -> dict[str, Any]:
    state = store.state()
    votes = store.votes()
    images = {image.id: image for image in store.images()}
    answered = Counter(vote.image for vote in votes)
    wanted = store.project().votes
    classes, overall = _agreements(tuple(votes))
    return {
        "state": "-".join(map(str, state)),
        "images": len(images),
        "votes": wanted,
        "finished": sum(number >= wanted for number in answered.values()),
        "begun": len(answered),
        "total": len(votes),
        "overall": overall,
        "classes": dict(list(classes.items())[:_MOST_CLASSES]),
        "people": _people(store, votes),
        "divided": len(_disputed(store, votes)),
        "disputed": _disputed(store, votes)[:_MOST_DISPUTED],
    }


@functools.lru_cache(maxsize=2)
def _agreements(votes: tuple[Vote, ...]) -> tuple[dict[str, Agreement], Agreement]:
    return by_class(votes, draws=_DRAWS), agreement(votes, draws=_DRAWS)


def _people(store: Store, votes: list[Vote]) -> list[dict[str, Any]]:
    answers = Counter(vote.person for vote in votes)
    last = {vote.person: vote.time for vote in votes}
    return [
        {"name": guest.name, "answered": answers[guest.name], "last": last.get(guest.name)}
        for guest in people.people(store.database)
        if not guest.owner
    ]


def _disputed(store: Store, votes: list[Vote]) -> list[dict[str, Any]]:
    images = {image.id: image for image in store.images()}
    rows = []
    for number, given in disputed(votes):
        image = images[number]
        original = f"/pictures/{image.key}/original" if image.original else None
        rows.append({
            "label": image.label,
            "source_id": image.source_id,
            "given": given,
            "files": {"original": image.original, "changed": image.changed},
            "original": original,
            "changed": f"/pictures/{image.key}/changed",
        })  # fmt: skip
    return rows


def _figure(interval: Interval, kind: str) -> str:
    if math.isnan(interval.value):
        return "–"
    return f"{100 * interval.value:.1f} %" if kind == "percent" else _signed(f"{interval.value:.3f}")


def _interval(interval: Interval, kind: str) -> str:
    if math.isnan(interval.low):
        return ""
    scale, digits = (100, 1) if kind == "percent" else (1, 3)
    return _signed(f"[{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]")


def _signed(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _ago(time: int | None) -> str:
    if time is None:
        return "not yet"
    minutes = (now() - time) // 60_000
    if minutes < 1:
        return "just now"
    if minutes < 120:
        return f"{minutes} min ago"
    return datetime.fromtimestamp(time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


templates().filters |= {"figure": _figure, "interval": _interval, "ago": _ago}
templates().globals |= {"answers": ANSWERS, "measures": _MEASURES}
