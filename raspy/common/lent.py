"""Modules that stand in for others while something is imported that hardly uses them: memory that each server saves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class Lent(ModuleType):
    """Stands in for a module while another one is imported that hardly uses it: what is asked for beyond what is given
    here is taken from the real one, which is imported then.

    :param name: of the module
    :param given: what it has for as long as the real one is not needed
    """

    def __init__(self, name: str, **given: object) -> None:
        super().__init__(name)
        self.__dict__.update(given)

    def later(self, name: str) -> Callable[..., Any]:
        """A function of the real module, which is imported when it is called: for what others take from this one."""
        return lambda *args, **words: getattr(self._real(name), name)(*args, **words)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # what Python itself looks for in any module
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(self._real(name), name)

    def _real(self, name: str) -> ModuleType:
        return __import__(self.__name__, fromlist=[name])


class lent:
    """Have modules stand in for those of their names that are not imported yet: a context manager."""

    def __init__(self, *modules: Lent) -> None:
        self._modules = modules
        self._mine: list[Lent] = []

    def __enter__(self) -> None:
        self._mine = [module for module in self._modules if module.__name__ not in sys.modules]
        sys.modules.update((module.__name__, module) for module in self._mine)

    def __exit__(self, *_: object) -> None:
        for module in self._mine:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
