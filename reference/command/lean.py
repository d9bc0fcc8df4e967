"""The command's own process imports torch without the one part of it that it never uses, a third of the time of it all.

`torch._meta_registrations` teaches torch's operators the shapes of tensors that have no data, for torch.compile and the
like. It is put in its place as a module that is empty until somebody asks for what is in it, and then is executed after all.
For a process that is ours alone: in another, somebody else may want torch whole. Must not know who uses torch, and what for.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PUT_OFF = "torch._meta_registrations"


def import_torch_in_part() -> None:
    """From now on, where torch has not been imported yet."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds the one module, as it is found anyway, and gives it a loader that waits."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == PUT_OFF else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec


class _Later(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Waiting(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""


class _Waiting(ModuleType):
    """A module that is executed when it is asked for what it does not have; of its own names it has those between __."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by whoever goes through all modules
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None
        assert isinstance(spec.loader, _Later)
        spec.loader = spec.loader.loader
        assert spec.loader is not None
        spec.loader.exec_module(self)
        return getattr(self, name)
