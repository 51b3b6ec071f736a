"""For tests that share the cores: scripts start without ``torch._dynamo``, whose import is as long as torch's own.

torch imports it at the first ``zero_grad`` or ``step``, to have these functions left alone where something is compiled. Here
they are torch's own as soon as something else has imported it.
"""

import functools
import sys
from importlib.machinery import PathFinder


def _loaded():
    return "torch._dynamo" in sys.modules


def _as_of(real, inner):
    """``inner`` as if it stood in torch's own file: no line of the user's code."""
    inner.__code__ = inner.__code__.replace(co_filename=real.__code__.co_filename)
    return inner


def _disable_dynamo(real):
    """In place of ``torch._compile._disable_dynamo``."""

    @functools.wraps(real)
    def decorate(fn=None, recursive=True):
        if fn is None:
            return functools.partial(decorate, recursive=recursive)
        disabled = real(fn, recursive)

        @functools.wraps(fn)
        def inner(*args, **kwargs):
            return (disabled if _loaded() else fn)(*args, **kwargs)

        return _as_of(real, inner)

    return decorate


def _use_grad_for_differentiable(real):
    """In place of ``torch.optim.optimizer._use_grad_for_differentiable``."""

    @functools.wraps(real)
    def decorate(step):
        with_breaks = real(step)

        @functools.wraps(step)
        def inner(self, *args, **kwargs):
            if _loaded():
                return with_breaks(self, *args, **kwargs)
            import torch

            with torch.set_grad_enabled(self.defaults["differentiable"]):
                return step(self, *args, **kwargs)

        return _as_of(real, inner)

    return decorate


REPLACED = {"torch._compile": _disable_dynamo, "torch.optim.optimizer": _use_grad_for_differentiable}


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        replacement = REPLACED.get(name)
        spec = PathFinder.find_spec(name, path, target) if replacement else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                setattr(module, replacement.__name__, replacement(getattr(module, replacement.__name__)))

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder)
