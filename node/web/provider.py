"""Who vouches for people: an identity provider as the settings describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Handed in by assembly: who vouches, and for which roles."""

    issuer: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    label: str = "the hospital's account"
    scope: str = "openid profile"
    name_claim: str = "preferred_username"
    role_claim: str = "groups"  #: dots lead inside: realm_access.roles
    roles: Mapping[str, str] = field(default_factory=dict)  #: value of the claim → role; of all that fit
    timeout_s: float = 10
