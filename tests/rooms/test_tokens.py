"""Bearer tokens: shown once, kept as a digest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from node.errors import TokenInvalid
from node.ledger.tables import Base
from node.ledger.tokens import Bearer, Role, Tokens


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def tokens(engine: Engine) -> Tokens:
    return Tokens(engine, clock=lambda: datetime(2026, 3, 1, tzinfo=UTC))


def test_a_token_opens_with_its_role_also_after_a_restart(tokens, engine):
    token = tokens.create("pacs-bridge", "integrator")

    assert tokens.bearer(token) == Bearer(name="pacs-bridge", roles=frozenset({Role.INTEGRATOR}))
    assert Tokens(engine).bearer(token) == tokens.bearer(token)


def test_a_token_may_have_several_roles(tokens):
    token = tokens.create("night-shift", "auditor", "radiologist")

    assert tokens.bearer(token).roles == {Role.AUDITOR, Role.RADIOLOGIST}


def test_only_a_digest_is_kept(tokens, tmp_path):
    token = tokens.create("pacs-bridge", "admin")

    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"pacs-bridge" in kept
    assert token.encode() not in kept
    assert token.removeprefix("rn_").encode() not in kept


def test_two_tokens_are_never_alike_and_a_guess_opens_nothing(tokens):
    one, two = tokens.create("one", "admin"), tokens.create("two", "auditor")

    assert one != two
    assert len(one) > 40
    for guess in ("", one[:-1], one.upper(), f"{one} ", "' OR 1=1 --"):
        assert tokens.bearer(guess) is None


def test_a_disabled_token_opens_nothing_and_stays_in_the_list(tokens):
    token = tokens.create("old", "radiologist")
    tokens.disable("old")

    assert tokens.bearer(token) is None
    [info] = tokens.list()
    assert (info.name, info.roles, info.disabled) == ("old", {Role.RADIOLOGIST}, True)
    assert token not in repr(info)


def test_a_name_is_used_once(tokens):
    first = tokens.create("pacs", "admin")
    with pytest.raises(TokenInvalid, match="taken"):
        tokens.create("pacs", "auditor")
    assert tokens.bearer(first) is not None


@pytest.mark.parametrize(("name", "role"), [("", "admin"), ("a b", "admin"), ("x" * 101, "admin"), ("ok", "root"), ("ok", "")])
def test_odd_names_and_unknown_roles_are_said(tokens, name, role):
    with pytest.raises(TokenInvalid):
        tokens.create(name, role)
    assert tokens.list() == []


def test_disabling_a_name_that_is_not_there_is_said(tokens):
    with pytest.raises(TokenInvalid):
        tokens.disable("nobody")
