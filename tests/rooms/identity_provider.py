"""A small OpenID provider on loopback: discovery, authorization with PKCE, tokens signed with RS256. It can be told to misbehave."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.ports import free_port

CLIENT, SECRET = "radnode", "between provider and node: 50 %+ü"


class IdentityProvider:
    """Lets in `person` without asking, as one who is signed in there."""

    def __init__(self) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.asked: list[dict[str, str]] = []
        self.new_keys()
        self.behave()
        self._codes: dict[str, dict[str, str]] = {}
        routes = [
            Route("/.well-known/openid-configuration", self._metadata),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/keys", lambda _: JSONResponse(self._keys.as_dict(private=False))),
        ]
        self._server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=self.port, log_config=None, lifespan="off")
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def behave(self, **claims: Any) -> None:
        """`claims` stand in the next tokens in place of the right ones."""
        self.claims: dict[str, Any] = claims
        self.denies = False
        self.key: Any = None  #: signs in place of the right one
        self.algorithm = "RS256"

    def new_keys(self) -> None:
        self._signing = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig", "alg": "RS256"})
        self._keys = KeySet([self._signing])

    def start(self) -> IdentityProvider:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def _metadata(self, _: Request) -> Response:
        names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        return JSONResponse({"issuer": self.issuer, **{name: f"{self.issuer}/{path}" for name, path in names.items()}})

    def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        self.asked.append(asked)
        if self.denies:
            return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'error': 'access_denied', 'state': asked['state']})}", 303)
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.issuer})}", 303)

    async def _token(self, request: Request) -> Response:
        given = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        begun = self._codes.pop(given.get("code", ""), None)
        shown = base64.b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode().split(":")
        if begun is None or [unquote_plus(one) for one in shown] != [CLIENT, SECRET]:  # RFC 6749 2.3.1
            return JSONResponse({"error": "invalid_grant"}, 400)
        challenge = base64.urlsafe_b64encode(sha256(given["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if challenge != begun["code_challenge"] or given["redirect_uri"] != begun["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "4711",
            "aud": CLIENT,
            "exp": now + 300,
            "iat": now,
            "nonce": begun["nonce"],
            "preferred_username": "dr.visitor",
            "groups": ["staff", "radiology"],
            **self.claims,
        }
        header = {"alg": self.algorithm, "kid": self._signing.kid}
        signed = jwt.encode(
            header, {k: v for k, v in claims.items() if v is not None}, self.key or self._signing, algorithms=[self.algorithm]
        )
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": signed})
