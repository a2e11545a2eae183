"""The pages for people: sign-in and password as plain HTML, everything else by NiceGUI in one frame."""

from node.web.ui.furnish import furnish
from node.web.ui.read import reading

__all__ = ["furnish", "reading"]
