"""
Makes transformers' Auto classes know the models of this package, whichever of the two is imported first.

`import aga_model` brings neither torch nor transformers, so that what needs no model starts at once. The models are
registered when an import has brought transformers' Auto classes. Where that is in the middle of other imports, it may
be too early, because the modules of transformers import each other in circles: then it is done when the outermost
import of one of them or of ours has ended.
"""

import importlib.abc
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGES = ("transformers", "aga_model")
_AUTO = "transformers.models.auto."


def _configuration(auto: Any) -> None:
    from .configuration_aga import AgaConfig

    auto.AutoConfig.register("aga", AgaConfig, exist_ok=True)


def _modeling(auto: Any) -> None:
    from .configuration_aga import AgaConfig
    from .modeling_aga import AgaModel
    from .pretraining_aga import AgaForPreTraining

    auto.AutoModel.register(AgaConfig, AgaModel, exist_ok=True)
    auto.AutoModelForPreTraining.register(AgaConfig, AgaForPreTraining, exist_ok=True)


def _processing(auto: Any) -> None:
    from .configuration_aga import AgaConfig
    from .processing_aga import AgaProcessor

    auto.AutoProcessor.register(AgaConfig, AgaProcessor, exist_ok=True)


_REGISTER: dict[str, Callable[[Any], None]] = {
    f"{_AUTO}configuration_auto": _configuration,
    f"{_AUTO}modeling_auto": _modeling,
    f"{_AUTO}processing_auto": _processing,
}


class _Watch(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it counts the imports that are under way, and registers when the last one has ended."""

    def __init__(self) -> None:
        self._thread = threading.local()
        self._waiting = dict(_REGISTER)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in _PACKAGES:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _CountedLoader(spec.loader, self)
                return spec
        return None

    def begin(self) -> None:
        self._thread.imports = getattr(self._thread, "imports", 0) + 1

    def end(self) -> None:
        self._thread.imports -= 1
        if not self._thread.imports:
            self.register()

    def executed(self, module: ModuleType) -> None:
        """
        Register with Auto classes that have just come to be, while no other thread has them yet. In the middle of a
        circle this fails, and is done at its end.
        """
        register = self._waiting.get(module.__name__)
        if register is None:
            return
        try:
            register(module)
        except (ImportError, AttributeError):
            return
        self._waiting.pop(module.__name__, None)

    def register(self) -> None:
        """Register with the Auto classes that have been imported; once with each."""
        for name in list(self._waiting):
            module = sys.modules.get(name)
            # Another thread may be in the middle of it; the end of its own import registers.
            if module is None or getattr(module.__spec__, "_initializing", False):
                continue
            register = self._waiting.pop(name, None)
            if register is not None:
                register(module)


class _CountedLoader(importlib.abc.Loader):
    """A module's loader, in all but that the watch hears of the beginning and the end of the module's execution."""

    def __init__(self, loader: Any, watch: _Watch):
        self._loader = loader
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # What asks for the module's loader later, such as inspect or importlib.resources, gets the real one.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._watch.begin()
        try:
            self._loader.exec_module(module)
            self._watch.executed(module)
            # The import system takes this mark away only after this method, when all of the module is there already.
            if module.__spec__ is not None and hasattr(module.__spec__, "_initializing"):
                module.__spec__._initializing = False
        finally:
            self._watch.end()


def watch_imports() -> None:
    """Register with the Auto classes now if they have been imported already, and otherwise when they are."""
    watch = _Watch()
    sys.meta_path.insert(0, watch)
    watch.register()


__all__ = ["watch_imports"]
