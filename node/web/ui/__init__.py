"""The pages for people: sign-in and password as plain HTML, everything else by NiceGUI in one frame."""

from node.web.ui.furnish import furnish

__all__ = ["furnish"]
