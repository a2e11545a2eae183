"""Bearer tokens of programs that call the node. Only the SHA-256 is kept, so a token is shown once, when it is made."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256

from sqlalchemy import Engine, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from node.errors import TokenInvalid
from node.ledger.database import reading
from node.ledger.tables import TokenRow

_SCOPE = re.compile(r"((GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) )?/[\x21-\x7e]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")


class Role(StrEnum):
    """What somebody may do over HTTP. A person or a token may have several roles, and may do what any of them may."""

    ADMIN = "admin"
    INTEGRATOR = "integrator"  #: systems that send studies and fetch results
    RADIOLOGIST = "radiologist"
    AUDITOR = "auditor"
    PRIVACY = "privacy"  #: may ask who somebody is


Roles = frozenset[Role]


def roles_named(words: Iterable[str]) -> Roles:
    """The roles of these names. Raises ValueError, which says what is known, for none and for a word that is no role."""
    said = set(words)
    if not said or not said <= set(Role):
        raise ValueError(f"known roles: {', '.join(Role)}")
    return frozenset(Role(word) for word in said)


def in_words(roles: Roles, between: str = ", ") -> str:
    """Always in the same order; with one blank between, as tables keep them."""
    return between.join(role for role in Role if role in roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """What is known of a token: never the token."""

    name: str
    roles: Roles
    created_at: datetime
    disabled: bool
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """Who came with a token that is good."""

    name: str
    roles: Roles
    scopes: tuple[str, ...] = ()  #: "/path" or "METHOD /path"; none: whatever the roles may do

    def reaches(self, method: str, path: str) -> bool:
        """Whether a scope names the path, or one above it, for this method."""
        return not self.scopes or any(_names(scope, method, path) for scope in self.scopes)


class Tokens:
    """Tokens in the ledger. A name is used once; a disabled token stays in the list."""

    def __init__(self, engine: Engine, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._clock = clock

    def check(self, name: str, *roles: str, scopes: Sequence[str] = ()) -> Roles:
        """The roles, where such a token can be made. Raises TokenInvalid as `create` does."""
        if not _NAME.fullmatch(name):
            raise TokenInvalid("a name has 1 to 100 letters, digits, dots, dashes, underscores or @")
        for scope in scopes:
            if not _SCOPE.fullmatch(scope):
                raise TokenInvalid('a scope is a path of the node, with or without a method before it: /dicom-web, or "GET /metrics"')
        with reading(self._engine) as connection:
            if connection.scalar(select(TokenRow.name).where(TokenRow.name == name)) is not None:
                raise TokenInvalid("the name is taken", name=name)
        try:
            return roles_named(roles)
        except ValueError as why:
            raise TokenInvalid(str(why)) from None

    def create(self, name: str, *roles: str, scopes: Sequence[str] = ()) -> str:
        """Make a token of 256 random bits and return it, this one time. `scopes` narrow what its roles may do.

        Raises
        ------
        TokenInvalid
            When the name is taken or has odd characters, or a role is not known, or a scope is no path.
        """
        kept = in_words(self.check(name, *roles, scopes=scopes), " ")
        token = f"rn_{secrets.token_urlsafe(32)}"
        row = TokenRow(name=name, sha256=_digest(token), roles=kept, created_at=self._clock(), disabled=False, scopes="\n".join(scopes))
        try:
            with Session(self._engine) as session, session.begin():
                session.add(row)
        except IntegrityError as why:
            raise TokenInvalid("the name is taken", name=name) from why
        return token

    def bearer(self, token: str) -> Bearer | None:
        """Name and roles of a good token.

        The look-up is by digest, so its time says nothing about how near a guess was.
        """
        query = select(TokenRow.name, TokenRow.roles, TokenRow.scopes).where(
            TokenRow.sha256 == _digest(token), TokenRow.disabled.is_(False)
        )
        with Session(self._engine) as session:
            row = session.execute(query).first()
        return Bearer(name=row.name, roles=roles_named(row.roles.split()), scopes=_scopes(row.scopes)) if row else None

    def list(self) -> list[TokenInfo]:
        """All tokens, disabled ones too, by name."""
        with Session(self._engine) as session:
            rows = session.scalars(select(TokenRow).order_by(TokenRow.name)).all()
            return [
                TokenInfo(
                    name=r.name,
                    roles=roles_named(r.roles.split()),
                    created_at=r.created_at,
                    disabled=r.disabled,
                    scopes=_scopes(r.scopes),
                )
                for r in rows
            ]

    def disable(self, name: str) -> None:
        """From now on the token opens nothing. Raises TokenInvalid when there is none of that name."""
        with Session(self._engine) as session, session.begin():
            done = session.execute(update(TokenRow).where(TokenRow.name == name).values(disabled=True).returning(TokenRow.name)).first()
        if done is None:
            raise TokenInvalid("there is no token of that name")


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def _scopes(kept: str) -> tuple[str, ...]:
    return tuple(kept.splitlines())


def _names(scope: str, method: str, path: str) -> bool:
    wanted, _, prefix = scope.rpartition(" ")
    return wanted in {"", method} and (path == prefix or path.startswith(prefix.rstrip("/") + "/"))
