"""The pictures of a job's result on a page: slices, segments over them, heat map. They come from `/pictures/{job}`."""

from __future__ import annotations

from nicegui.element import Element


class FilmView(Element, component="film.js"):
    """Slice slider, key slices, window, overlay opacity, a switch for each segment; all of it works with the keyboard."""

    def __init__(self, job: str, *, view: str, label: str) -> None:
        super().__init__()
        self._props.update({"job": job, "view": view, "label": label})
