"""Finds plug-ins: the files of a room, then installed entry points of the same name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from node.errors import PluginBroken

T = TypeVar("T")


class Registry(Generic[T]):
    """The plug-ins of one room, by name.

    A file that fails to import is listed in `broken` and the node still starts, unless something names it.
    """

    def __init__(self, room: str, kind: type[T]) -> None:
        self.room = room
        self.kind = kind
        self.broken: dict[str, str] = {}
        self._found: dict[str, type[T]] = {}
        self._look()

    def __getitem__(self, name: str) -> type[T]:
        if name in self._found:
            return self._found[name]
        if name in self.broken:
            raise PluginBroken(self.broken[name], room=self.room, plugin=name)
        raise PluginBroken(f"known: {', '.join(self)}", room=self.room, plugin=name)

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._found))

    def _look(self) -> None:
        room = importlib.import_module(self.room)
        for file in pkgutil.iter_modules(room.__path__):
            if file.name == "interface" or file.name.startswith("_"):
                continue
            try:
                self._keep(file.name, importlib.import_module(f"{self.room}.{file.name}"))
            except Exception as why:  # a broken plug-in must not stop the others
                self.broken[file.name] = f"{type(why).__name__} on import"
        for entry in entry_points(group=self.room):
            try:
                found = entry.load()
                if not (inspect.isclass(found) and issubclass(found, self.kind)):
                    raise TypeError(entry.name)
                self._found[entry.name] = found
            except Exception as why:
                self.broken[entry.name] = f"{type(why).__name__} on import"

    def _keep(self, name: str, module: object) -> None:
        mine = [
            thing
            for thing in vars(module).values()
            if inspect.isclass(thing)
            and issubclass(thing, self.kind)
            and thing is not self.kind
            and thing.__module__ == f"{self.room}.{name}"
        ]
        if len(mine) != 1:
            self.broken[name] = f"defines {len(mine)} plug-ins, one is wanted"
            return
        self._found[name] = mine[0]
