"""BeDKD: clean a text classifier that was trained on poisoned data (arXiv 2508.01595)."""

import sys
from importlib.machinery import PathFinder, SourceFileLoader

__version__ = "0.1.0"


class SourceKeeper(SourceFileLoader):
    """Keeps the text that a module was loaded from, as its `__source__`.

    A result's key must tell the code that made it (`runs.keys`), and in a notebook that runs for
    hours the file on the disk may be another by then.
    """

    n_loaded = 0  # a module that is loaded again counts again

    def exec_module(self, module):
        module.__source__ = self.get_source(module.__name__)
        SourceKeeper.n_loaded += 1
        super().exec_module(module)


class OwnModules:
    """Finds this package's modules, where every finder would, for `SourceKeeper` to load."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if not name.startswith(f"{__name__}."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and type(spec.loader) is SourceFileLoader:
            spec.loader = SourceKeeper(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, OwnModules)


def __getattr__(name):
    """`bedkd.purify`; torch and transformers are not loaded before it is asked for."""
    if name == "purify":
        from bedkd.purification.purify import purify

        return purify
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
