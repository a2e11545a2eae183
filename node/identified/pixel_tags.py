"""Are these the same pixels? A tag under a key of the site (AES-GMAC, NIST SP 800-38D), at a twentieth of what a digest costs.

Whoever lacks the key can't make other pixels that fit a tag, and a tag is kept sealed: so it may be as short as this, and as quick.
"""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.identified.masters import NONCE_BYTES


class PixelTags:
    """Gives tags. The same key, instance and bytes give the same one."""

    def __init__(self, key: bytes) -> None:
        self._tag_of = AESGCM(key).encrypt

    def of(self, instance: str, told_by: bytes | memoryview) -> str:
        """The tag of an instance's pixels, or whatever tells it from others."""
        nonce = sha256(instance.encode("ascii", "replace")).digest()[:NONCE_BYTES]  # each instance one of its own
        return self._tag_of(nonce, b"", told_by).hex()
