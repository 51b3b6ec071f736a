"""Treatment: no gradients for parameters that no optimizer holds."""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from perfdoc.core.treatment import Level, Loop, Offer, Treatment
from perfdoc.inject.observe.modules import trained_parents
from perfdoc.inject.observe.users_calls import users_sites

BACKWARDS = 8
"""Maximum number of backward calls whose graph is looked through: several networks may take turns."""
STEPS_WITH_CALLS = 4
"""Maximum number of optimizer calls during which it is looked where such a module is called."""
SAMPLED = 256
"""Entries of a parameter, spread over it, by which it is told whether the script updates it by hand."""
NAMED = 3
"""Maximum number of modules that are named."""
ALL_HELD = "every parameter that gets a gradient is used"


class UnusedGradients(Treatment):
    """``requires_grad_(False)`` for parameters that get gradients and are held by no optimizer.

    A backbone in eval mode, or one that was only left out of the optimizer, still has its whole backward computed. Gradients of
    what comes before it flow on, and the trained parameters get the same numbers.
    """

    slug = "unused_gradients"
    title = "no gradients for what no optimizer trains"
    phases = ("backward", "forward")

    def __init__(self) -> None:
        self._leaves: dict[int, tuple[Callable[[], Any], torch.Tensor]] = {}
        """Parameters that got gradients, by id: a reference, and some of their entries at that time."""
        self._candidates: list[tuple[Any, torch.Tensor]] = []
        """Those of them that are in no optimizer which stepped while it was looked."""
        self._reached: set[int] = set()
        self._asked: set[int] = set()
        """Parameters whose gradients the script asks for by ``torch.autograd.grad``."""
        self._held: set[int] = set()
        self._calls: dict[int, tuple[Callable[[], Any], str]] = {}
        """Modules without any trained parameter, by id: a reference, and the user's line that calls them."""
        self._looked = self._steps = 0
        self._unused: list[Any] = []
        self._changed: list[tuple[Any, Any]] = []

    # -- what the script does

    def sense(self, loop: Loop) -> Callable[[], None]:
        """Which parameters does backward reach, which of them do optimizers hold, and where are the other modules called?"""
        undo = ExitStack()
        backward, grad = torch.autograd.backward, torch.autograd.grad

        @functools.wraps(backward)
        def looked_at(tensors: Any, *args: Any, **kwargs: Any) -> None:
            if self._looked < BACKWARDS:
                # Checkpointing goes backward once more within backward, for each of its parts.
                self._looked += torch._C._current_graph_task_id() == -1
                self._note_leaves(tensors)
            backward(tensors, *args, **kwargs)

        @functools.wraps(grad)
        def asked(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            several = inputs if isinstance(inputs, tuple | list) else (inputs,)
            self._asked.update(id(value) for value in several if isinstance(value, nn.Parameter))
            return grad(outputs, inputs, *args, **kwargs)

        torch.autograd.backward, torch.autograd.grad = looked_at, asked
        undo.callback(setattr, torch.autograd, "backward", backward)
        undo.callback(setattr, torch.autograd, "grad", grad)
        calls = ExitStack()
        undo.callback(calls.close)

        def stepping(optimizer: Any, args: Any, kwargs: Any) -> None:
            self._held.update(_parameters_of([optimizer]))
            self._steps += 1
            calls.close()
            # Torch's calls of modules take longer with such a hook: only where there is something to find.
            if self._steps <= STEPS_WITH_CALLS and self._leaves.keys() - self._held:
                calls.callback(register_module_forward_pre_hook(self._note_call).remove)

        # Not a hook for after the step: looks end in one of those, and it must not be taken from under torch's feet.
        undo.callback(register_optimizer_step_pre_hook(stepping).remove)
        undo.callback(self._choose)
        return undo.close

    def _choose(self) -> None:
        """The look ends: keep what may be unused, and nothing else of the user's alive."""
        used = self._held | self._asked
        found = [(leaf(), before) for key, (leaf, before) in self._leaves.items() if key not in used]
        self._candidates = [(p, before) for p, before in found if p is not None]
        self._reached = set(self._leaves)
        self._leaves.clear()

    def _note_leaves(self, tensors: Any) -> None:
        for leaf in _leaves(tensors):
            if isinstance(leaf, nn.Parameter) and id(leaf) not in self._leaves:
                self._leaves[id(leaf)] = (weakref.ref(leaf), _some(leaf))

    def _note_call(self, module: Any, args: Any) -> None:
        if id(module) not in self._calls:
            parameters = [id(p) for p in module.parameters()]
            if any(p in self._leaves for p in parameters) and not any(p in self._held for p in parameters):
                self._calls[id(module)] = (weakref.ref(module), next(iter(users_sites(sys._getframe(1))), ""))

    def offer(self, loop: Loop) -> Offer:
        """Offered where backward reaches parameters that are in no optimizer, and that nothing updates by hand."""
        candidates, self._candidates = self._candidates, []
        calls, self._calls = self._calls, {}
        if not loop.optimizers:
            return Offer("not applicable", reason="parameters are updated by hand")
        if loop.ranks > 1:
            return Offer("not applicable", reason="several ranks wait for the gradients of all parameters")
        if not candidates:
            return Offer("not applicable", reason=ALL_HELD)
        trained = [p for o in loop.optimizers for group in o.param_groups for p in group["params"]]
        if any(p.grad is not None and id(p) not in self._reached for p in trained):
            return Offer("not applicable", reason="the optimizer's gradients are copied from those of other parameters")
        optimizers = [o for o in gc.get_objects() if issubclass(type(o), torch.optim.Optimizer)]
        held = _parameters_of([*optimizers, *loop.optimizers])
        unused = [p for p, before in candidates if id(p) not in held and _only_computed(p, before)]
        if not unused:
            return Offer("not applicable", reason=ALL_HELD)
        self._unused = unused
        roots = list(_untrained(unused, held))
        names = [name for name, _ in roots[:NAMED]] + ["..."] * (len(roots) > NAMED)
        sites = [site for _, root in roots
                 if (found := calls.get(id(root))) and found[0]() is root and (site := found[1])]
        count = _count(sum(p.numel() for p in unused))
        of = f"{', '.join(names)}: " if names else ""
        said = f"{of}{count} parameters, in {len(unused)} tensors, get gradients that no optimizer uses"
        said += f"; called at {', '.join(dict.fromkeys(sites))}" if sites else ""
        which = ", ".join(names) or f"{count} parameters that no optimizer holds"
        return Offer("offered", (Level("off", f"requires_grad_(False) for {which}"),), said, next(iter(sites), ""))

    # -- without them

    def apply(self, loop: Loop, level: str) -> None:
        """The parameters ask for no gradient; what they have of one is laid aside, as if there had never been any."""
        for parameter in self._unused:
            if parameter.requires_grad:
                self._changed.append((parameter, parameter.grad))
                parameter.requires_grad_(False)
                parameter.grad = None

    def restore(self, loop: Loop) -> None:
        """The parameters with their gradients as they were."""
        while self._changed:
            parameter, gradient = self._changed.pop()
            parameter.requires_grad_(True)
            if parameter.grad is None:
                parameter.grad = gradient


def _leaves(tensors: Any) -> Iterator[torch.Tensor]:
    """Tensors that backward from ``tensors`` accumulates gradients in."""
    seen: set[Any] = set()
    stack = [t.grad_fn for t in (tensors if isinstance(tensors, tuple | list) else (tensors,)) if isinstance(t, torch.Tensor)]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, torch.Tensor):
            yield leaf
        stack += [parent for parent, _ in node.next_functions]


def _parameters_of(optimizers: Iterable[Any]) -> set[int]:
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def _some(parameter: Any) -> torch.Tensor:
    apart = max(1, parameter.numel() // SAMPLED)
    some: torch.Tensor = parameter.detach().flatten()[::apart][:SAMPLED].clone()
    return some


def _only_computed(parameter: Any, before: torch.Tensor) -> bool:
    """Whether nothing was done with its gradient: the values are as they were, and no hook waits for it."""
    hooks = parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
    return not hooks and torch.equal(_some(parameter), before)


def _untrained(unused: Iterable[Any], held: set[int]) -> Iterator[tuple[str, Any]]:
    """The outermost modules with unused parameters and none that an optimizer holds: ``ResNet``, ``Tagger.embed``."""
    wanted = {id(p) for p in unused}
    stack = [(type(module).__name__, module) for module in trained_parents(unused)]
    while stack:
        name, module = stack.pop()
        parameters = {id(p) for p in module.parameters()}
        if not parameters & wanted:
            continue
        if not parameters & held:
            yield name, module
        else:
            stack += [(f"{name}.{child}", part) for child, part in reversed(list(module.named_children()))]


def _count(number: int) -> str:
    """``11.2 million``, ``640``."""
    return f"{number / 1e6:.3g} million" if number >= 1e6 else f"{number / 1e3:.3g} thousand" if number >= 1e4 else str(number)
