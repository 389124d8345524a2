"""Every request that the explore page's interface allows, and many that it does not: Schemathesis over its OpenAPI."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi import checks as conformance
from starlette.testclient import TestClient

from advex.annotation import people
from advex.annotation.app import make_app
from advex.annotation.security import Limits, csrf_token
from advex.annotation.store import Store
from advex.explore import routes
from advex.explore.desk import Desk
from advex.explore.requests import UPLOAD_BYTES, Catalogue

BASE = "http://127.0.0.1"
OPERATIONS = {
    "GET /api/explore", "GET /api/explore/pictures", "POST /api/explore/pictures", "POST /api/explore/explanations",
    "POST /api/explore/saved",
}  # fmt: skip
FREE = {"GET /api/explore", "POST /api/explore/pictures"}  # nothing is asked that could be asked wrongly
CHECKS = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")


@pytest.fixture
def guard(lite: Store, make: SimpleNamespace, desk: Desk, catalogue: Catalogue) -> Any:
    """The application, which refuses nobody for being quick."""
    make.fill(lite, 4)
    limits = Limits(rate=1e6, burst=10**6, attempts=10**6, uploads={routes.UPLOAD: UPLOAD_BYTES})
    return make_app(lite, limits, routes.owner_pages(desk, catalogue))


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, "POSITIVE") for label in sorted(OPERATIONS)),
        *((each, "NEGATIVE") for each in sorted(OPERATIONS - FREE)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_interface_keeps_to_its_description(guard: Any, lite: Store, label: str, mode: str) -> None:
    """No failure, no undocumented status, no body of another form."""
    http = TestClient(guard, base_url=BASE, raise_server_exceptions=False)
    token = people.invite_owner(lite.database, renew=True)
    assert http.post("/api/session", json={"token": token}, headers={"X-Advex": "enter"}).status_code == 204
    csrf = csrf_token(next(iter(http.cookies.jar)).value or "")
    app: Any = guard.app
    schema: Any = schemathesis.openapi.from_dict(app.openapi())
    operations = {each.ok().label: each.ok() for each in schema.get_all_operations()}
    assert {each for each in operations if "/explore" in each} == OPERATIONS
    strategy = operations[label].as_strategy(generation_mode=getattr(schemathesis.GenerationMode, mode))
    checks = [getattr(conformance, name) for name in CHECKS]
    seen: set[int] = set()

    every: Any = list(HealthCheck)

    @settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=every)
    @given(case=strategy)
    def ask(case: Any) -> None:
        if mode == "POSITIVE" and isinstance(case.body, dict) and "picture" in case.body:
            # Nearly every number and name is one too large: what is there is asked for too.
            case.body |= {"model": case.body["model"] % 2, "picture": str(len(case.body["page"])), "target": 1}
            case.body["explainer"] = "gradient"
        sent = case.as_transport_kwargs(base_url=BASE)
        typed = {"Content-Type": "application/octet-stream" if label.endswith("/pictures") else "application/json"}
        sent["headers"] = typed | {"X-CSRF-Token": csrf}
        sent.pop("cookies", None)
        if "data" in sent:
            sent["content"] = sent.pop("data")
        answer = http.request(**sent)
        assert answer.status_code < 500
        seen.add(answer.status_code)
        case.validate_response(answer, checks=checks)

    ask()
    expected = {
        "GET /api/explore": {200}, "GET /api/explore/pictures": {200}, "POST /api/explore/pictures": {422},
        "POST /api/explore/explanations": {200, 422}, "POST /api/explore/saved": {404},
    }  # fmt: skip
    assert seen >= (expected[label] if mode == "POSITIVE" else {422})
