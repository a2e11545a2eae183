"""Who accepted, in which session, what is said before the first upload. Kept in memory: after a restart people are asked again."""

from __future__ import annotations

import threading
from collections import OrderedDict

from starlette.types import Scope

MOST = 10_000


class Terms:
    """Acceptances, by session; a token accepts for itself."""

    def __init__(self) -> None:
        self._accepted: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def accept(self, scope: Scope) -> None:
        """Whoever came with this request accepts."""
        with self._lock:
            self._accepted[_key(scope)] = None
            if len(self._accepted) > MOST:
                self._accepted.popitem(last=False)

    def accepted(self, scope: Scope) -> bool:
        """Whether they did before."""
        return _key(scope) in self._accepted


def _key(scope: Scope) -> str:
    signed = scope.get("radnode.signed")
    return signed.key if signed else str(scope.get("radnode.who", ""))
