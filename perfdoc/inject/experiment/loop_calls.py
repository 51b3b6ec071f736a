"""The loop's calls, as torch's wrappers report them: timed, treated, and saved where a change fails them.

These are the places that every step of the user's comes by: what stands here costs them time.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Protocol

import torch

from perfdoc.core.treatment import Treatment
from perfdoc.inject.experiment.runner import Runner
from perfdoc.inject.experiment.switcher import Switcher
from perfdoc.inject.experiment.tries import Tries
from perfdoc.inject.feed import twin
from perfdoc.inject.feed.handle import Handle
from perfdoc.inject.observe import carried_state
from perfdoc.inject.observe.clock import BACKWARD, DATA, FETCHED, FORWARD, LEAVE, LOSS, OPTIMIZER
from perfdoc.inject.observe.loop_context import LoopContext
from perfdoc.inject.observe.step_finder import BACKWARD_ONLY
from perfdoc.inject.observe.validation import ValidationWatch
from perfdoc.inject.system.ending import Ending

BACKWARDS_WITHOUT_OPTIMIZER = 8
"""Minimum number of backward calls after which a process that holds no optimizer is taken to update its parameters by hand."""


class Director(Protocol):
    """Decides which treatments are on."""

    active: tuple[Treatment, ...]


class LoopCalls:
    """Hears of every call of one loop (see ``torch_hooks.LoopListener``).

    ``stepped`` is called after every optimizer call, with the optimizer's key; ``seen`` with how far the process has got.
    """

    def __init__(self, context: LoopContext, stepped: Callable[[int], None], seen: Callable[..., None]) -> None:
        self.enabled = True
        self.observing = True
        """Whether it is still found out what a step of this loop is."""
        self.clock = context.clock
        self.loop = context.loop
        self.ending: Ending | None = None
        """Set once the script has been told to end."""
        self.director: Director | None = None
        self.runner: Runner | None = None
        """Where an experiment runs: it hears of epochs that end and begin."""
        self.before_training: Callable[[Any], None] | None = None
        """Called once, with the model, before the first call of one in training."""
        self.fetched: Callable[[Handle], None] | None = None
        """Called after every fetch from a loader."""
        self._switcher: Switcher | None = None
        self._device = context.device
        self._stepped = stepped
        self._seen = seen
        self._forward_seen = False
        self._validation = ValidationWatch(context.loop)
        self._with_parameters: dict[int, bool] = {}
        self._tries = Tries()
        self._stepping = 0
        """Optimizers whose ``step`` is running: one may call another."""
        self._has_optimizer = False
        self._hand_backwards = 0

    def run_experiment(self, runner: Runner) -> None:
        """From now on ``runner`` decides, and calls that fail under a change are repeated without it."""
        self.runner, self.director, self._switcher = runner, runner.switcher, runner.switcher

    def observe_anew(self) -> None:
        """Another loop begins."""
        self.observing = True

    # -- batches

    def fetch(self, iterator: Any) -> Any:
        """Next batch of a loader's iterator, timed; from the handle where the loop is held."""
        handle: Handle | None = iterator.__dict__.get("_perfdoc_handle")
        if handle is None:
            loader = iterator.__dict__.get("_perfdoc_loader")
            if loader is None or twin.is_twin(loader):
                return twin.original_next(iterator)
            handle = iterator._perfdoc_handle = self.loop.known_loaders.of(loader, iterator)
        if self.ending is not None:
            self.ending.raise_again()
        clock = self.clock
        if threading.get_ident() != clock.thread:
            return self._from(handle, iterator)
        left, mark = LEAVE, clock.mark
        mark((DATA, perf_counter()))
        clock.fetching = True
        try:
            if handle.held:
                batch = self._from(handle, iterator)
            else:
                if self.director is not None:
                    self._tries.other_work()  # another loader's batches: a validation
                batch = self._own(handle, iterator) if self.observing else twin.original_next(iterator)
            left = FETCHED - handle.key
        except StopIteration:
            handle.ended(iterator)
            raise
        finally:
            clock.fetching = False
            mark((left, perf_counter()))
        if self.director is not None:
            for treatment in self.director.active:
                treatment.on_fetch()
        if clock.crowded():
            clock.work_out()
        if self.fetched is not None:
            self.fetched(handle)
        return batch

    def _own(self, handle: Handle, iterator: Any) -> Any:
        """The next batch of the user's own loader, before it is held."""
        began = perf_counter()
        batch = twin.original_next(iterator)
        handle.took(perf_counter() - began)
        return batch

    def _from(self, handle: Handle, iterator: Any) -> Any:
        if not handle.held:
            return twin.original_next(iterator)
        self._count(handle)
        try:
            return handle.fetch()
        except Exception as error:  # the data set's own code, made to run otherwise: the change is given up and named
            if self._switcher is None or not self._switcher.config:
                raise
            self._switcher.fail(error)
        return handle.fetch()

    def _count(self, handle: Handle) -> None:
        """A held loader is asked for a batch. What a script does at the end of an epoch, it does under its own settings."""
        try:
            handle.epoch.take()
        except StopIteration:
            self._tries.other_work()
            if self.runner is not None and self.loop.ranks == 1:
                self.runner.pause()
            raise
        if handle.epoch.position == 1 and self.runner is not None:
            self.runner.resume()

    # -- calls of the model

    def forward(self, module: Any, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of an outermost module."""
        if not self.enabled or self.clock.fetching:
            # Transforms are modules too: what the data set calls while a batch is made belongs to the data.
            return forward(*args, **kwargs)
        if self.ending is not None:
            self.ending.raise_again()
        if not self._forward_seen:
            self._forward_seen = True
            self._seen("forward", module=type(module).__name__)
        if self.observing:
            self._observe_call(module, args, kwargs)
        elif self.loop.weighing:
            self.loop.weigh(args, kwargs)
        trained = self._with_parameters.get(id(module))
        if trained is None:
            trained = self.has_parameters(module)
        if trained and self._validation.wants(module):
            self._validation.saw(module, args, kwargs)
        clock = self.clock
        if clock.crowded():
            clock.work_out()
        clock.mark((FORWARD if trained else LOSS, perf_counter()))
        try:
            # Inside backward it is checkpointing that computes a part of the model again, as it was treated when it was called
            # first. It ends that by raising: no failure of ours.
            if self.director is None or torch._C._current_graph_task_id() != -1:
                return forward(*args, **kwargs)
            if self.director.active:
                return self._under_a_change(self.director.active, module, forward, args, kwargs)
            if self._switcher is not None and self._switcher.may_stumble:
                return self._after_a_change(self._switcher, forward, args, kwargs)
            return forward(*args, **kwargs)
        finally:
            clock.mark((LEAVE, perf_counter()))

    def _observe_call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.loop.saw_call(args, kwargs)
        if module.training and self.has_parameters(module):
            self.loop.call_sites.forward(args, kwargs)
            if self.before_training is not None:
                before, self.before_training = self.before_training, None
                before(module)

    def _under_a_change(
        self, active: Sequence[Treatment], module: Any, forward: Callable[..., Any], args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """A call while treatments are on. Where it fails, they are taken off, and it is made as the user wrote it."""
        switcher = self._switcher if self.loop.ranks == 1 else None
        learning = module.training and torch.is_grad_enabled() and self.has_parameters(module)
        if learning and self._tries.too_many(self._calls_a_step(switcher)) and switcher is not None:
            switcher.fail(f"no step came of {self._tries.count - 1} calls of the model in a row")
            return self._again(forward, args, kwargs)
        try:
            return self._treated(module, active, forward, args, kwargs)
        except Exception as error:  # the model's own code under a change: it is made again as the user wrote it
            if switcher is None:
                raise
            # What the treatment computed so far may be in its precision, and the batch of its size.
            stumbled = error if switcher.may_stumble and carried_state.reduced((args, kwargs)) else None
            enlarged = switcher.enlarged()
            if stumbled is None:
                switcher.fail(error)
        if stumbled is not None:
            # The change before this one may have left it: the same call with what it would be without that.
            full_args, full_kwargs = carried_state.in_full(args), carried_state.in_full(kwargs)
            try:
                result = self._treated(module, active, forward, full_args, full_kwargs)
                switcher.stumbled(stumbled)
                return result
            except Exception:  # it was not that: this change is given up
                switcher.fail(stumbled)
        if enlarged:
            carried_state.shrink_variables((args, kwargs), enlarged)
        return self._again(forward, args, kwargs)

    @staticmethod
    def _treated(
        module: Any, active: Sequence[Treatment], forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call of the model under the treatments that are on."""
        treated = forward
        for treatment in active:
            args, kwargs = treatment.on_forward(module, args, kwargs)
            treated = treatment.on_call(module, treated)
        return treated(*args, **kwargs)

    def _calls_a_step(self, switcher: Switcher | None) -> int:
        """Calls of the model that an ordinary step makes under what is on."""
        shape = self.loop.finder.shape
        period = switcher.period(switcher.config) if switcher is not None else 1
        return period * (shape.forwards if shape is not None else 1)

    def _a_step(self) -> None:
        self._tries.step(own_settings=self.director is None or not self.director.active)

    def _again(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that failed under a change, once more as the user wrote it."""
        self._device.empty_cache()  # what did not fit is free by now: the traceback that held it has gone
        return forward(*carried_state.in_full(args), **carried_state.in_full(kwargs))

    def _after_a_change(
        self, switcher: Switcher, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call under the user's own settings in one of the first steps after a change: it may stumble over what that left."""
        try:
            return forward(*args, **kwargs)
        except Exception as error:  # raised again below unless it was over what a change left behind
            if not carried_state.reduced((args, kwargs)):
                raise
            stumbled = error
        try:
            result = self._again(forward, args, kwargs)
        except Exception:  # it was not that: the script hears of its own failure
            raise stumbled from None
        switcher.stumbled(stumbled)
        return result

    def has_parameters(self, module: Any) -> bool:
        """Whether the module can be trained; asked once a module, its parameters do not come and go."""
        known = self._with_parameters.get(id(module))
        if known is None:
            known = hasattr(module, "parameters") and next(module.parameters(), None) is not None
            self._with_parameters[id(module)] = known
        return known

    # -- backward and the optimizer

    def backward(self, run: Callable[..., None], tensors: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A call of ``torch.autograd.backward``, timed and under the treatments that are on."""
        if self.ending is not None:
            self.ending.raise_again()
        if self.observing:
            self._seen("backward")
            self.loop.call_sites.backward()
        active = self.director.active if self.director is not None else ()
        self.clock.mark((BACKWARD, perf_counter()))
        try:
            if self.loop.numbers is not None:
                self.loop.numbers.on_backward(tensors)
            for treatment in active:
                tensors = treatment.on_backward(tensors)
            run(tensors, *args, **kwargs)
        except Exception as error:  # raised again without a change
            if not active or self.loop.ranks > 1 or self._switcher is None:
                raise
            # The graph is gone, so this backward cannot be repeated: the step goes on without these gradients.
            self._switcher.fail(error)
        finally:
            self.clock.mark((LEAVE, perf_counter()))
        if not self._has_optimizer and not self._stepping:
            self._by_hand()

    def _by_hand(self) -> None:
        """Backward without any optimizer in sight: after a while, backward calls are taken for steps."""
        self._hand_backwards += 1
        if self._hand_backwards == BACKWARDS_WITHOUT_OPTIMIZER and _any_optimizer():
            self._has_optimizer = True
            self.clock.restart()
        elif self._hand_backwards > BACKWARDS_WITHOUT_OPTIMIZER:
            self._a_step()
            self._stepped(BACKWARD_ONLY)

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """``optimizer.step`` is about to run: torch's global hook."""
        if not self.enabled:
            return
        if not self.loop.training:
            # The thread that steps is the one to watch: some scripts train in a thread of their own.
            self.clock.thread = threading.get_ident()
        if threading.get_ident() != self.clock.thread:
            return
        if self.ending is not None:
            self.ending.raise_again()
        self._stepping += 1
        self._has_optimizer = True
        self.clock.mark((OPTIMIZER, perf_counter()))
        if self._stepping == 1:
            if self.director is not None:
                for treatment in self.director.active:
                    treatment.on_optimizer(optimizer)
            if self.loop.numbers is not None:
                self.loop.numbers.on_optimizer(optimizer)

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """``optimizer.step`` has run: torch's global hook."""
        if not self.enabled or not self._stepping or threading.get_ident() != self.clock.thread:
            return
        self.clock.mark((LEAVE, perf_counter()))
        self._stepping -= 1
        if self._stepping:
            return  # a wrapper around another optimizer (SAM, Lookahead): the outer call is the step
        if self.director is not None:
            for treatment in self.director.active:
                treatment.after_optimizer(optimizer)
        key = self.loop.optimizer_keys.of(optimizer)
        if self.observing:
            self.loop.call_sites.step(optimizer)
        self._a_step()
        self._stepped(key)

    # -- saving

    @contextmanager
    def own_settings(self) -> Iterator[None]:
        """A model is saved as the user made it: some changes put functions into modules, which cannot be pickled."""
        runner = self.runner if self.loop.ranks == 1 else None
        if runner is None or not runner.config:
            yield
            return
        runner.pause()
        try:
            yield
        finally:
            runner.resume()


def _any_optimizer() -> bool:
    """Whether the process holds an optimizer, though none has stepped."""
    return any(issubclass(type(o), torch.optim.Optimizer) for o in gc.get_objects())
