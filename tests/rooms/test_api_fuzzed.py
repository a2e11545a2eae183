"""Whatever the OpenAPI document allows may be sent, and much that it does not: no answer is a failure of the node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.rooms.api_site import Site, a_full_site, a_site

EXAMPLES = 6  #: for each operation and way of making them
NOT_HERE = {"/api/v1/events"}  #: a stream: it has tests of its own


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with a_site(tmp_path_factory.mktemp("fuzzed")) as made:
        a_full_site(made)
        yield made


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_makes_the_node_fail(site: Site, mode: GenerationMode) -> None:
    token = {"Authorization": f"Bearer {site.token('admin')}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", site.web.app, headers=token)
    asked: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in NOT_HERE:
            continue

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            answer = case.call(headers=token)
            asked.setdefault(f"{case.method} {case.path}", set()).add(answer.status_code)
            assert answer.status_code < 500, answer.text

        ask()
    assert len(asked) > 35
    assert {200, 404, 422} <= set().union(*asked.values())
