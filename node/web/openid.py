"""Sign-in at an identity provider: OpenID Connect, authorization code flow with PKCE (OpenID Connect Core 3.1, RFC 7636, RFC 9700)."""

from __future__ import annotations

import secrets
import threading
import time
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from node.errors import SignInRefused
from node.web.provider import Provider

ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]  #: never `none`, and nothing that a public key could be used for as a secret
LASTS_S = 600  #: from the first step to the last one
MOST_WAITING = 1000
METADATA_S = 3600
LEEWAY_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """Whom the provider vouches for."""

    name: str
    roles: Collection[str]
    subject: str  #: digest of issuer and `sub`: it never changes and is nobody else's
    next: str  #: where the person wanted to go


@dataclass(frozen=True, slots=True)
class _Begun:
    nonce: str
    verifier: str
    back: str
    next: str
    at: float


class OpenId:
    """One provider. What was begun is kept in memory: who is under way at a restart begins again."""

    def __init__(self, provider: Provider, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.provider = provider
        self._clock = clock
        self._begun: OrderedDict[str, _Begun] = OrderedDict()
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._read_at = 0.0

    def begin(self, back: str, next: str) -> tuple[str, str]:
        """(address to send the person to, state that must come back). `back`: our address for the answer."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        with self._lock:
            self._begun[state] = _Begun(nonce, verifier, back, next, self._clock())
            while len(self._begun) > MOST_WAITING:
                self._begun.popitem(last=False)
        asked = {
            "response_type": "code",
            "client_id": self.provider.client_id,
            "redirect_uri": back,
            "scope": self.provider.scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        address = self._endpoint("authorization_endpoint")
        return f"{address}{'&' if '?' in address else '?'}{urlencode(asked)}", state

    def finish(self, state: str, code: str, issuer: str = "") -> Vouched:
        """Whom the provider vouches for. A state opens once. Raises SignInRefused."""
        with self._lock:
            begun = self._begun.pop(state, None)
        if begun is None or self._clock() - begun.at > LASTS_S:
            raise SignInRefused("it took too long, or was begun elsewhere; sign in again")
        if issuer not in {"", self.provider.issuer}:
            raise SignInRefused("another issuer answered (RFC 9207)")
        claims = self._checked(self._exchanged(code, begun), begun.nonce)
        subject = sha256(f"{self.provider.issuer}\n{claims['sub']}".encode()).hexdigest()
        name = str(claims.get(self.provider.name_claim) or "")
        if not name:
            raise SignInRefused(f"it names nobody in {self.provider.name_claim}; correct web.oidc.name_claim")
        return Vouched(name=name, roles=self._roles(claims), subject=subject, next=begun.next)

    # --- below ----------------------------------------------------------------------------------------------------------------
    def _exchanged(self, code: str, begun: _Begun) -> str:
        """The code for an ID token, with the client's secret and the verifier."""
        chosen = self.provider
        given = {"grant_type": "authorization_code", "code": code, "redirect_uri": begun.back, "code_verifier": begun.verifier}
        secret = (quote_plus(chosen.client_id), quote_plus(chosen.client_secret)) if chosen.client_secret else None  # RFC 6749 2.3.1
        if secret is None:
            given["client_id"] = chosen.client_id
        try:
            answer = httpx.post(self._endpoint("token_endpoint"), data=given, auth=secret, timeout=chosen.timeout_s)
            answer.raise_for_status()
            return str(answer.json()["id_token"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            raise SignInRefused("it did not give a token for the code") from None

    def _checked(self, token: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token (OpenID Connect Core 3.1.3.7)."""
        chosen = self.provider
        rules = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_S,
            iss={"essential": True, "value": chosen.issuer},
            aud={"essential": True, "value": chosen.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = self._decoded(token)
            rules.validate(claims)
        except (JoseError, ValueError):
            raise SignInRefused("its token does not fit: signature, issuer, audience, time or nonce") from None
        if claims.get("azp", chosen.client_id) != chosen.client_id:
            raise SignInRefused("its token is for another client")
        return claims

    def _decoded(self, token: str) -> dict[str, Any]:
        try:
            return dict(jwt.decode(token, self._key_set(), algorithms=ALGORITHMS).claims)
        except (JoseError, ValueError):  # the provider may have new keys
            return dict(jwt.decode(token, self._key_set(anew=True), algorithms=ALGORITHMS).claims)

    def _roles(self, claims: Mapping[str, Any]) -> Collection[str]:
        """Those of all groups that have one."""
        found: Any = claims
        whole = self.provider.role_claim
        for part in [whole] if whole in claims else whole.split("."):  # a claim may be called by an address: https://hospital.example/roles
            found = found.get(part) if isinstance(found, Mapping) else None
        said = {str(one) for one in (found if isinstance(found, list) else [found])}
        roles = {role for value, role in self.provider.roles.items() if value in said}
        if not roles:
            raise SignInRefused("none of this person's groups has a role here; see web.oidc.roles")
        return roles

    def _known(self) -> dict[str, Any]:
        """What the provider says of itself (OpenID Connect Discovery 4)."""
        if not self._metadata or self._clock() - self._read_at > METADATA_S:
            found = self._get(f"{self.provider.issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self.provider.issuer:
                raise SignInRefused("the provider names another issuer than web.oidc.issuer")
            self._metadata, self._keys, self._read_at = found, None, self._clock()
        return self._metadata

    def _key_set(self, *, anew: bool = False) -> KeySet:
        if self._keys is None or anew:
            found = self._get(self._endpoint("jwks_uri"))
            try:
                self._keys = KeySet.import_key_set(found)  # type: ignore[arg-type]
            except (JoseError, LookupError, TypeError, ValueError):
                raise SignInRefused("the identity provider's keys can't be read; tell the administrator") from None
        return self._keys

    def _endpoint(self, name: str) -> str:
        address = self._known().get(name)
        if not isinstance(address, str):
            raise SignInRefused(f"the identity provider does not name its {name}; tell the administrator")
        return address

    def _get(self, address: str) -> dict[str, Any]:
        try:
            answer = httpx.get(address, timeout=self.provider.timeout_s, follow_redirects=False)
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError):
            raise SignInRefused("the identity provider can't be reached; tell the administrator") from None
        if not isinstance(found, dict):
            raise SignInRefused("the identity provider's answer can't be read")
        return found
