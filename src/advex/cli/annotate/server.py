"""The annotation server: links on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING
from unicodedata import normalize

from advex.annotation import people, serving
from advex.annotation.app import OwnerPages, make_app
from advex.annotation.security import check_address
from advex.annotation.store import Store
from advex.cli import terminal
from advex.errors import SpecError, quoted
from advex.progress import Terminal

if TYPE_CHECKING:
    from advex.explore.desk import Desk

_SAY = Terminal()


def serve(
    store: Store,
    *,
    annotators: list[str],
    renewed: list[str],
    revoked: list[str],
    host: str,
    port: int,
    allow_remote: bool,
    public: str | None,
    verbose: bool,
    explore: Desk | None = None,
) -> None:
    """Print the links and serve until stopped. Raises SpecError for an address that cannot be meant.

    explore: asks models for the owner, once these are open.
    """
    check_address(host, allow_remote)
    limits = serving.limits_of(host, public)
    with serving.listening(host, port) as listener, _explored(explore) as (room, uploads):
        address = public.rstrip("/") if public else serving.address_of(listener, host)
        _hand_out(store, address, annotators, renewed, revoked)
        _SAY.note(f"serving {store.project().name} at {address} (Ctrl-C to stop)")
        serving.serve(make_app(store, replace(limits, uploads=uploads), room), listener, verbose=verbose)


@contextlib.contextmanager
def _explored(desk: Desk | None) -> Iterator[tuple[OwnerPages | None, dict[str, int]]]:
    """What adds the explore page, and how much may be uploaded where; its process ends with the block."""
    if desk is None:
        yield None, {}
        return
    from advex.explore import routes
    from advex.explore.requests import UPLOAD_BYTES

    with contextlib.closing(desk):
        _SAY.note("opening the models and pictures to explore")
        yield routes.owner_pages(desk, desk.open()), {routes.UPLOAD: UPLOAD_BYTES}


def _hand_out(store: Store, address: str, annotators: list[str], renewed: list[str], revoked: list[str]) -> None:
    """Print a link for everybody who needs one. Links that were given before cannot be told again: only renewed."""
    database = store.database
    for name in revoked:
        people.revoke(database, name)
    guests = people.people(database)
    owners = [guest.name for guest in guests if guest.owner]
    known = {normalize("NFC", guest.name) for guest in guests if not guest.owner}
    again = [people.person_name(name) for name in renewed]
    if unknown := [name for name in again if name not in known.union(owners)]:
        raise SpecError(f"There is nobody called {quoted(unknown[0])} in this project.")
    wanted = [people.person_name(name) for name in annotators] or ([] if known else ["annotator"])
    new = [name for name in wanted if name not in known] + [name for name in again if name not in owners]
    links = {name: people.invite(database, name) for name in dict.fromkeys(new)}
    ends = bool({*owners} & {*again, *revoked})
    token = people.invite_owner(database, renew=ends)
    for name, each in [*links.items(), (owners[0] if owners else people.OWNER, token)]:
        terminal.emit(f"{name}\t{address}/enter#{each}")
    if owners and not ends:
        _SAY.note(f"earlier links of the owner still work; --new-link {owners[0]} revokes them")
    if has := sorted(known - links.keys() - set(revoked)):
        _SAY.note(f"already have a link (--new-link NAME replaces it): {', '.join(has)}")
