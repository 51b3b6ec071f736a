"""One training process under perfdoc: what is wrapped, and how events reach clock, step finder and conductor.

Wrapped are ``_BaseDataLoaderIter.__next__`` (where batches come from), the calls of outermost modules,
``torch.autograd.backward`` and ``grad``, and, through torch's own global hooks, ``Optimizer.step``. All wrappers pass
straight through on other threads, in forked children, and after the scan.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.optim.optimizer as torch_optimizer
import torch.utils.checkpoint
from torch.utils.data import dataloader as torch_dataloader

from perfdoc import step_log
from perfdoc.device_reads import place_of, wrap_reads
from perfdoc.inject import ending, frameworks, loaders
from perfdoc.inject.clock import BACKWARD, DATA, FETCHED, FORWARD, LEAVE, LOSS, OPTIMIZER, PHASES, TRANSFER, Clock
from perfdoc.inject.conductor import Conductor, Follower, median_step
from perfdoc.inject.cores import available_cores
from perfdoc.inject.design import Factor
from perfdoc.inject.experiment import Experiment
from perfdoc.inject.guard import Guard
from perfdoc.inject.modules import OutermostCalls, trained_parents
from perfdoc.inject.parity import Listener
from perfdoc.inject.places import Places
from perfdoc.inject.recorder import Recorder
from perfdoc.inject.step_finder import BACKWARD_ONLY, Step, StepFinder
from perfdoc.parent_death import die_with_parent
from perfdoc.probe import Probe, discover
from perfdoc.treatment import EvalCall, Offer, Treatment
from perfdoc.user_code import calling_site, calling_users

OBSERVE_SECONDS = 1.0
OBSERVE_STEPS = 5
LONG_OBSERVATION = 8.0
"""Seconds after which three whole steps are enough to know the loop."""
BACKWARDS_WITHOUT_OPTIMIZER = 8
"""Backward calls after which a process that holds no optimizer is taken to update its parameters by hand."""
CONTROL_STEP, OBSERVED_STEP, CLOCK_STEP, IRREGULAR_STEP = range(len(step_log.KINDS))
EVALUATING = 30.0
"""Seconds of forward passes without backward after which a script is taken to evaluate only (sanity checks are shorter)."""
LONGEST_SWITCH = 0.3
"""Share of the budget that the first switch to a level (compilation) may be expected to take."""
MOST_SHAPES = 64
"""Different input shapes that are told apart."""
KEPT_STEPS = 4000
"""Steps whose phases are written one by one; later ones are only in their blocks."""


current: Session | None = None
"""The session of this process, for perfdoc's own benchmarks."""


class LoopView:
    """What treatments and probes see of the loop (see ``perfdoc.treatment.Loop``)."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.device = "cpu"
        self.cores = available_cores()
        self.ranks = 1
        self.autocast_seen = False
        self.anomaly_seen = False
        self.checkpointing_seen = False
        self.zeroing_seen = False
        self.closure_seen = False
        self.device_reads: dict[Any, int] = {}
        self.eval_call: EvalCall | None = None
        self.input_shapes: dict[tuple[tuple[int, ...], ...], int] = {}
        self.models: list[Any] = []
        self.optimizers: list[Any] = []
        self.step_seconds = 0.0

    def saw_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """An outermost module is called with these arguments: count the shapes of the tensors among them."""
        shapes = tuple(tuple(v.shape) for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
        if shapes and (shapes in self.input_shapes or len(self.input_shapes) < MOST_SHAPES):
            self.input_shapes[shapes] = self.input_shapes.get(shapes, 0) + 1

    @property
    def loaders(self) -> list[loaders.Handle]:
        """DataLoaders fetched from in every step."""
        return self._session.handles_in_step()


class Session:
    """Clock, step finder and conductor of one process, and the wrappers that feed them."""

    def __init__(self, recorder: Recorder, settings: Mapping[str, Any], guard: Guard | None) -> None:
        self.recorder = recorder
        self.settings = settings
        self._guard = guard
        self.lap = recorder.lap
        self.enabled = True
        self.holding = False
        self.asynchronous = False
        self.ranks = 1
        self.optimizer_calls = 0
        self.calls_a_step = 1
        self.clock = Clock()
        self.finder = StepFinder()
        self.loop = LoopView(self)
        self.places = Places()
        self.conductor: Conductor | None = None
        self.follower: Follower | None = None
        self._directed = False
        """Whether conductor, follower or errand decide about treatments, at every step."""
        self.errand: Any = None
        """What is done with the loop in place of an experiment: an object with ``active`` hooks and
        ``on_step(step, regular)``."""
        self._knows_validation = False
        self._maybe_validation: EvalCall | None = None
        self.ending: ending.Ending | None = None
        self.listener: Listener | None = None
        self._handles: dict[int, loaders.Handle] = {}
        self._loader_sites: dict[int, str] = {}
        self._seen: set[str] = set()
        self._first_step: float | None = None
        self._training = False
        self._stepping = 0
        self._has_optimizer = False
        self._hand_backwards = 0
        self._with_parameters: dict[int, bool] = {}
        self.steps_written = 0
        self._optimizers: set[int] = set()
        self._observing = True
        self._calls = OutermostCalls(self._forward, self.clock.mine)
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._hooks: list[Any] = []
        self._released = False
        self._loader_wanted = settings.get("loader_after") is not None
        self._first_fetch: float | None = None

    # -- wrapping torch

    def install(self) -> None:
        """Wrap torch. Called once, right after torch was imported."""
        global current
        session = current = self
        base: Any = torch_dataloader._BaseDataLoaderIter
        base_init, multi_init = base.__init__, loaders._MultiIter.__init__
        loader_init = torch_dataloader.DataLoader.__init__

        @functools.wraps(loader_init)
        def made(loader: Any, *args: Any, **kwargs: Any) -> None:
            loader_init(loader, *args, **kwargs)
            if session.enabled:
                loader.__dict__["_perfdoc_made_at"] = session._made_at(loader, calling_site(2), calling_users(2))

        optimizer_init = torch_optimizer.Optimizer.__init__

        @functools.wraps(optimizer_init)
        def optimizer_made(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            optimizer_init(optimizer, *args, **kwargs)
            if session.enabled:
                optimizer._perfdoc_made_at = session.places.made_here()  # type: ignore[attr-defined]

        @functools.wraps(base_init)
        def iterated(iterator: Any, loader: Any) -> None:
            iterator._perfdoc_loader = loader
            base_init(iterator, loader)

        @functools.wraps(multi_init)
        def workers_started(iterator: Any, loader: Any) -> None:
            nested = os.environ.get("PERFDOC_WORKER")
            os.environ["PERFDOC_WORKER"] = "1"
            try:
                multi_init(iterator, loader)
            finally:
                if nested is None:
                    os.environ.pop("PERFDOC_WORKER", None)

        def __next__(iterator: Any) -> Any:
            if not session.enabled:
                return loaders.original_next(iterator)
            return session._fetch(iterator)

        self._replace(torch_dataloader.DataLoader, "__init__", made)
        self._replace(torch_optimizer.Optimizer, "__init__", optimizer_made)
        self._replace(base, "__init__", iterated)
        self._replace(loaders._MultiIter, "__init__", workers_started)
        self._replace(base, "__next__", __next__)
        self._wrap_backward()
        self._hooks = [
            torch_optimizer.register_optimizer_step_pre_hook(self._before_step),
            torch_optimizer.register_optimizer_step_post_hook(self._after_step),
        ]
        self._calls.observe()
        self._watch_settings()
        self._wrap_schedulers()
        session_of = weakref.ref(self)  # the registration cannot be taken back: it must not keep a user's model alive

        def forked() -> None:
            alive = session_of()
            if alive is not None:
                alive._forked()

        os.register_at_fork(after_in_child=forked)
        atexit.register(self._write_last_steps)

    def _replace(self, place: Any, name: str, new: Any) -> None:
        self._replaced.append((place, name, place.__dict__.get(name), getattr(place, name)))
        setattr(place, name, new)

    def uninstall(self) -> None:
        """Give torch back as it was, for loops that go on in this process (``perfdoc.bench_step``)."""
        global current
        self.enabled = False
        current = None if current is self else current
        atexit.unregister(self._write_last_steps)
        try:
            if self.conductor is not None:
                self.conductor.give_up()
            self._close()
        finally:
            self._unwrap()

    def _unwrap(self) -> None:
        if not self._released:
            self._release_observers()
        self._calls.release()
        for hook in self._hooks:
            hook.remove()
        for optimizer in self.loop.optimizers:
            optimizer.__dict__.pop("_perfdoc_made_at", None)
        for handle in self._handles.values():
            if getattr(handle.loader, "_iterator", None) is not None:
                handle.loader._iterator = None  # its workers were ended: the next epoch starts new ones
            for name in [n for n in vars(handle.loader) if n.startswith("_perfdoc_")]:
                del handle.loader.__dict__[name]
        while self._replaced:
            place, name, own, original = self._replaced.pop()
            if own is None and isinstance(place, type):
                delattr(place, name)
            else:
                setattr(place, name, original if own is None else own)

    def _watch_settings(self) -> None:
        """While the loop is observed: does its own code enter autocast with gradients, does it write zeros to gradients?"""
        session, enter = self, torch.autocast.__enter__

        def entered(context: Any) -> Any:
            if context._enabled and torch.is_grad_enabled():
                session.loop.autocast_seen = True
            return enter(context)

        torch.autocast.__enter__ = entered  # type: ignore[method-assign]

        zero_grad = torch.optim.Optimizer.zero_grad
        zero_module = torch.nn.Module.zero_grad

        @functools.wraps(zero_grad)
        def zeroed(optimizer: Any, set_to_none: bool = True) -> None:
            if not set_to_none:
                session.loop.zeroing_seen = True
                session.places.zero_grad()
            zero_grad(optimizer, set_to_none)

        @functools.wraps(zero_module)
        def zeroed_module(module: Any, set_to_none: bool = True) -> None:
            if not set_to_none:
                session.loop.zeroing_seen = True
                session.places.zero_grad()
            zero_module(module, set_to_none)

        torch.optim.Optimizer.zero_grad = zeroed  # type: ignore[method-assign]
        torch.nn.Module.zero_grad = zeroed_module  # type: ignore[method-assign]

        # Both kinds of checkpointing ask for the autocast settings; scripts hold references to the public function.
        checkpointing: Any = torch.utils.checkpoint
        ask = getattr(checkpointing, "_get_autocast_kwargs", None)

        if ask is not None:
            def asked(*args: Any, _ask: Callable[..., Any] = ask, **kwargs: Any) -> Any:
                session.loop.checkpointing_seen = True
                return _ask(*args, **kwargs)

            checkpointing._get_autocast_kwargs = asked

        def read(method: str, tensor: Any, really: Callable[[], Any], frame: FrameType) -> Any:
            if tensor.is_cuda and session._training and session.clock.mine():
                place = place_of(method, frame)
                if place is not None:
                    session.loop.device_reads[place] = session.loop.device_reads.get(place, 0) + 1
            return really()

        release_reads = wrap_reads(read)

        def release() -> None:
            session._released = True
            release_reads()
            if ask is not None:
                checkpointing._get_autocast_kwargs = ask
            torch.autocast.__enter__ = enter  # type: ignore[method-assign]
            torch.optim.Optimizer.zero_grad = zero_grad  # type: ignore[method-assign]
            torch.nn.Module.zero_grad = zero_module  # type: ignore[method-assign]

        self._release_observers = release

    def _wrap_backward(self) -> None:
        session = self
        backward, grad = torch.autograd.backward, torch.autograd.grad

        @functools.wraps(backward)
        def timed_backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            if not session.enabled or not session.clock.mine():
                backward(tensors, *args, **kwargs)
            else:
                session._backward(backward, tensors, args, kwargs)

        @functools.wraps(grad)
        def timed_grad(*args: Any, **kwargs: Any) -> Any:
            if not session.enabled or not session.clock.mine():
                return grad(*args, **kwargs)
            session.clock.push(BACKWARD)
            try:
                return grad(*args, **kwargs)
            finally:
                session.clock.pop()

        self._replace(torch.autograd, "backward", timed_backward)
        self._replace(torch.autograd, "grad", timed_grad)

    def _wrap_schedulers(self) -> None:
        """While the loop is held, learning-rate schedules stand still: they must not be driven past their end."""
        session = self
        from torch.optim import lr_scheduler

        def hold(cls: type) -> None:
            step = cls.__dict__.get("step")
            if step is None:
                return

            @functools.wraps(step)
            def stepped(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
                if session.holding and session.enabled:
                    return None
                return step(scheduler, *args, **kwargs)

            session._replace(cls, "step", stepped)

        for member in {c for c in vars(lr_scheduler).values() if isinstance(c, type)}:
            if issubclass(member, lr_scheduler.LRScheduler):
                hold(member)

    def _forked(self) -> None:
        """A forked child: a DataLoader worker is left alone, any other child starts a file of its own."""
        if os.environ.get("PERFDOC_WORKER") or self._training:
            self.enabled = False
            if self.settings.get("dies_with_parent"):
                die_with_parent()
        else:
            self.recorder.after_fork()
            self.clock.thread = threading.get_ident()

    # -- events

    def seen(self, what: str, **fields: Any) -> None:
        """Note, once, that the process got as far as ``what``."""
        if what not in self._seen:
            self._seen.add(what)
            self.recorder.write("seen", what=what, **fields)

    def _fetch(self, iterator: Any) -> Any:
        handle: loaders.Handle | None = iterator.__dict__.get("_perfdoc_handle")
        if handle is None:
            loader = iterator.__dict__.get("_perfdoc_loader")
            if loader is None or loaders.is_twin(loader):
                return loaders.original_next(iterator)
            handle = iterator._perfdoc_handle = self._handle_of(loader, iterator)
        if self.ending is not None:
            self.ending.raise_again()
        clock = self.clock
        if threading.get_ident() != clock.thread:
            return self._from(handle, iterator)
        left, mark = LEAVE, clock.mark
        mark((DATA, perf_counter()))
        clock.fetching = True
        try:
            batch = self._from(handle, iterator) if handle.held else loaders.original_next(iterator)
            left = FETCHED - handle.key
        finally:
            clock.fetching = False
            mark((left, perf_counter()))
        if self._directed:
            for treatment in self._active():
                treatment.on_fetch()
        if clock.crowded():
            clock.work_out()
        if self._loader_wanted:
            self._fetched(handle)
        return batch

    def _fetched(self, handle: loaders.Handle) -> None:
        """An errand that wants a loader, and nothing may ever train: after a while it is given the one that is iterated."""
        if self._training or "backward" in self._seen:
            self._loader_wanted = False  # a loop: it is waited for
            return
        if self._first_fetch is None:
            self._first_fetch = time.monotonic()
        patience = EVALUATING if "forward" in self._seen else self.settings["loader_after"]
        if time.monotonic() - self._first_fetch >= patience:
            self._loader_wanted = False
            self.errand = importlib.import_module(self.settings["errand"]).Errand(self)
            self._directed = True
            self.errand.on_loader(handle)

    def _made_at(self, loader: Any, site: str, directly: bool) -> str:
        """Where the user made a loader; libraries (accelerate, Lightning) make another one for the same data set."""
        key = id(loader.dataset)
        if directly:
            self._loader_sites[key] = site
        return self._loader_sites.get(key, site)

    def _handle_of(self, loader: Any, iterator: Any) -> loaders.Handle:
        """The handle of a loader; scripts that make their loader anew every epoch keep one handle."""
        key: int | None = loader.__dict__.get("_perfdoc_key")
        if key is None or key not in self._handles:
            predecessor = next((h for h in self._handles.values() if h.succeeded_by(loader)), None)
            if predecessor is None:
                site = loader.__dict__.get("_perfdoc_made_at") or calling_site(4)
                predecessor = loaders.Handle(len(self._handles), loader, site)
                self._handles[predecessor.key] = predecessor
                self.seen("first batch", site=site)
            key = loader.__dict__["_perfdoc_key"] = predecessor.key
        handle = self._handles[key]
        handle.iterated(loader, iterator)
        return handle

    def _from(self, handle: loaders.Handle, iterator: Any) -> Any:
        if not handle.held:
            return loaders.original_next(iterator)
        try:
            return handle.fetch()
        except Exception as error:
            if self.conductor is not None and self.conductor.config:
                self.conductor.fail(error)
                return handle.fetch()
            raise

    def _active(self) -> tuple[Treatment, ...]:
        if self.conductor is not None:
            return self.conductor.active
        if self.errand is not None:
            return tuple(self.errand.active)
        return self.follower.active if self.follower is not None else ()

    def _forward(self, module: Any, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.enabled or self.clock.fetching:
            # Transforms are modules too: what the data set calls while a batch is made belongs to the data.
            return forward(*args, **kwargs)
        if self.ending is not None:
            self.ending.raise_again()
        if "forward" not in self._seen:
            self.seen("forward", module=type(module).__name__)
        if self._observing:
            self.loop.saw_call(args, kwargs)
            if module.training and self._has_parameters(module):
                self.places.forward(args, kwargs)
        trained = self._with_parameters.get(id(module))
        if trained is None:
            trained = self._has_parameters(module)
        if trained and not self._knows_validation and (self._maybe_validation is not None or not module.training):
            self._validates(module, args, kwargs)
        clock = self.clock
        if clock.crowded():
            clock.work_out()
        clock.mark((FORWARD if trained else LOSS, perf_counter()))
        try:
            active = self._active() if self._directed else ()
            if not active:
                return forward(*args, **kwargs)
            try:
                treated, treated_args, treated_kwargs = forward, args, kwargs
                for treatment in active:
                    treated_args, treated_kwargs = treatment.on_forward(module, treated_args, treated_kwargs)
                    treated = treatment.on_call(module, treated)
                return treated(*treated_args, **treated_kwargs)
            except Exception as error:
                if self.ranks > 1 or self.conductor is None:
                    raise
                # Under a treatment the user's step failed: undo it, and do this call again as the user wrote it. What
                # the treatment computed so far may be in its precision.
                self.conductor.fail(error)
                return forward(*_in_full(args), **_in_full(kwargs))
        finally:
            clock.mark((LEAVE, perf_counter()))

    def _validates(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a call in eval mode; one with gradients rather than one without.

        It is validation only if the same module is called in training mode later: frozen parts and teachers never are.
        """
        seen = self._maybe_validation
        if module.training:
            if seen is not None and seen.module is module:
                self.loop.eval_call, self._maybe_validation = seen, None
                self._knows_validation = seen.mode == "gradients"
        elif seen is None or (seen.mode != "gradients" and torch.is_grad_enabled()):
            mode = "gradients" if torch.is_grad_enabled() else "no_grad"
            mode = "inference_mode" if torch.is_inference_mode_enabled() else mode
            self._maybe_validation = EvalCall(module, args, kwargs, mode, calling_site(4))

    def _has_parameters(self, module: Any) -> bool:
        """Whether the module can be trained; asked once a module, its parameters do not come and go."""
        known = self._with_parameters.get(id(module))
        if known is None:
            known = hasattr(module, "parameters") and next(module.parameters(), None) is not None
            self._with_parameters[id(module)] = known
        return known

    def _backward(self, run: Callable[..., None], tensors: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.ending is not None:
            self.ending.raise_again()
        if self._observing:
            self.seen("backward")
            self.loop.anomaly_seen |= torch.is_anomaly_enabled()
            self.places.backward()
        active = self._active() if self._directed else ()
        self.clock.mark((BACKWARD, perf_counter()))
        try:
            if self.listener is not None:
                self.listener.on_backward(tensors)
            for treatment in active:
                tensors = treatment.on_backward(tensors)
            run(tensors, *args, **kwargs)
        except Exception as error:
            if not active or self.ranks > 1 or self.conductor is None:
                raise
            # The graph is gone, so this backward cannot be repeated: the step goes on without these gradients.
            self.conductor.fail(error)
        finally:
            self.clock.mark((LEAVE, perf_counter()))
        if not self._has_optimizer and not self._stepping:
            self._by_hand()

    def _by_hand(self) -> None:
        """Backward without any optimizer in sight: after a while, backward calls are taken for steps."""
        self._hand_backwards += 1
        if self._hand_backwards == BACKWARDS_WITHOUT_OPTIMIZER and self._any_optimizer():
            self._has_optimizer = True
            self.clock.restart()
        elif self._hand_backwards > BACKWARDS_WITHOUT_OPTIMIZER:
            self._optimizer_call(BACKWARD_ONLY)

    @staticmethod
    def _any_optimizer() -> bool:
        return any(issubclass(type(o), torch.optim.Optimizer) for o in gc.get_objects())

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self.enabled:
            return
        if not self._training:
            # The thread that steps is the one to watch: some scripts train in a thread of their own.
            self.clock.thread = threading.get_ident()
        if threading.get_ident() != self.clock.thread:
            return
        if self.ending is not None:
            self.ending.raise_again()
        self._stepping += 1
        self._has_optimizer = True
        if self._observing and any(callable(value) for value in (*args, *kwargs.values())):
            self.loop.closure_seen = True
        self.clock.mark((OPTIMIZER, perf_counter()))
        if self._stepping == 1:
            if self._directed:
                for treatment in self._active():
                    treatment.on_optimizer(optimizer)
            if self.listener is not None:
                self.listener.on_optimizer(optimizer)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not self.enabled or not self._stepping or threading.get_ident() != self.clock.thread:
            return
        self.clock.mark((LEAVE, perf_counter()))
        self._stepping -= 1
        if self._stepping:
            return  # a wrapper around another optimizer (SAM, Lookahead): the outer call is the step
        if self._directed:
            for treatment in self._active():
                treatment.after_optimizer(optimizer)
        key = id(optimizer)
        if key not in self._optimizers:
            self._optimizers.add(key)
            self.loop.optimizers.append(optimizer)
        if self._observing:
            self.places.step(optimizer)
        self._optimizer_call(key)

    def _optimizer_call(self, key: int) -> None:
        self._training = True
        self.optimizer_calls += 1
        if self._first_step is None:
            self._first_step = time.monotonic()
            self.seen("optimizer step")
            if self._guard is not None:
                self._guard.training = True
        self.clock.cut(key)
        if self._directed or self._observing:
            self._take_partials()
        elif self.clock.due():
            self._take_partials()
            if not self.settings["experiment"] and self.remaining() <= 0:
                self.end("budget spent")

    def _take_partials(self) -> None:
        for key, partial in self.clock.partials():
            step = self.finder.add(key, partial)
            if self.follower is not None:
                self.follower.on_call()
            elif self._observing:
                self._observe()
            elif step is not None:
                self._step(step)

    # -- from steps to experiment

    def remaining(self) -> float:
        """Seconds of the budget that are left; it runs from the first optimizer step."""
        if self._first_step is None:
            return float(self.settings["budget"])
        return float(self.settings["budget"]) - (time.monotonic() - self._first_step) - float(self.settings["spent"])

    def _observe(self) -> None:
        assert self._first_step is not None
        elapsed = time.monotonic() - self._first_step
        steps = self.finder.steps()
        ready = len(steps) >= OBSERVE_STEPS and elapsed >= OBSERVE_SECONDS
        if not (ready or (len(steps) >= 3 and elapsed > LONG_OBSERVATION)):
            return
        shape = self.finder.settle()
        if shape is None:
            return
        self._observing = False
        for handle_key, count in shape.fetches.items():
            if handle_key in self._handles:
                self._handles[handle_key].batches_a_step = count
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.ranks = self.loop.ranks = torch.distributed.get_world_size() if distributed else 1
        rank = torch.distributed.get_rank() if distributed else int(os.environ.get("RANK", "0") or 0)
        self._look_at_model()
        regular = [step for step in steps if shape.regular(step)] or steps
        self.loop.step_seconds = median_step(regular)
        self.calls_a_step = max(1, shape.optimizer_calls)
        for step in regular:
            self._write_step(step, OBSERVED_STEP)
        self._describe(rank)
        self._calls.narrow(self.loop.models)
        self._release_observers()
        if rank > 0 or not self._leads():
            if distributed:
                self.follower = Follower(self, self._treatments())
                self._directed = True
            return
        self._begin()

    def _leads(self) -> bool:
        """Of the processes of one run only one experiments: the first to claim it."""
        try:
            fd = os.open(os.path.join(self.recorder.run_dir, f"leader-{self.lap}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except OSError:
            return False
        os.close(fd)
        return True

    def _look_at_model(self) -> None:
        parameters = [p for o in self.loop.optimizers for group in o.param_groups for p in group["params"]]
        if not parameters:
            self.loop.models = [m for m in self._calls.seen.values() if self._has_parameters(m)]
            parameters = [p for m in self.loop.models for p in m.parameters()]
        else:
            self.loop.models = trained_parents(parameters)
        devices = {p.device.type for p in parameters}
        self.loop.device = next(iter(devices - {"cpu"}), "cpu")
        if self.loop.device == "cuda":
            self.asynchronous = True
            self.clock.use_events(lambda: torch.cuda.Event(enable_timing=True))
            self._wrap_transfers()

    def _wrap_transfers(self) -> None:
        """Time copies to the device; wrapped only once parameters are known to live on one."""
        session = self
        for name in ("to", "cuda"):
            original = getattr(torch.Tensor, name)

            def moved(tensor: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
                if not session.enabled or tensor.is_cuda or not session.clock.mine():
                    return _original(tensor, *args, **kwargs)
                session.clock.push(TRANSFER)
                try:
                    return _original(tensor, *args, **kwargs)
                finally:
                    session.clock.pop()

            self._replace(torch.Tensor, name, functools.wraps(original)(moved))

    def _describe(self, rank: int) -> None:
        shape = self.finder.shape
        assert shape is not None
        self.recorder.write(
            "loop",
            rank=rank,
            ranks=self.ranks,
            device=self.loop.device,
            **({"device_name": torch.cuda.get_device_name()} if self.loop.device == "cuda" else {}),
            cores=self.loop.cores,
            threads=torch.get_num_threads(),
            step={
                "batches": shape.batches,
                "optimizer_calls": shape.optimizer_calls,
                "forwards": shape.forwards,
                "backwards": shape.backwards,
                "by_hand": shape.anchor == BACKWARD_ONLY,
            },
            loaders=[
                {
                    "site": handle.site,
                    "class": type(handle.loader).__name__,
                    "dataset": type(handle.loader.dataset).__name__,
                    "batch_size": handle.loader.batch_size,
                    "num_workers": handle.loader.num_workers,
                    "persistent_workers": bool(handle.loader.persistent_workers),
                    "pin_memory": bool(handle.loader.pin_memory),
                    "prefetch_factor": handle.loader.prefetch_factor,
                    "batches_an_epoch": handle.batches_an_epoch,
                    "batches_a_step": shape.fetches[key],
                }
                for key, handle in self._handles.items()
                if key in shape.fetches
            ],
            models=[type(model).__name__ for model in self.loop.models],
            parameters=sum(p.numel() for model in self.loop.models for p in model.parameters()),
            optimizers=[type(optimizer).__name__ for optimizer in self.loop.optimizers],
            torch=torch.__version__,
            places=self.places.to_json(),
        )

    def _treatments(self) -> dict[str, Treatment]:
        found = discover(Treatment, self.settings["packages"])  # type: ignore[type-abstract]
        return {treatment.slug: treatment for treatment in found}

    def _begin(self) -> None:
        if self.settings.get("errand"):
            self.errand = importlib.import_module(self.settings["errand"]).Errand(self)
            self._directed = True
            return
        if not self.settings["experiment"]:
            return
        treatments, factors = self._treatments(), []
        shares = self._shares()
        wanted = self.settings["only"]
        for slug, treatment in treatments.items():
            if wanted and slug not in wanted and not treatment.ceiling:
                continue
            try:
                offer = self._affordable(treatment.offer(self.loop))
            except Exception as error:
                self.recorder.write("offer", slug=slug, title=treatment.title, status="untestable here",
                                    reason=f"{type(error).__name__}: {error}", levels=[], ceiling=treatment.ceiling)
                continue
            self.recorder.write(
                "offer",
                slug=slug,
                title=treatment.title,
                status=offer.status,
                reason=offer.reason,
                levels=[[level.name, level.change] for level in offer.levels],
                ceiling=treatment.ceiling,
                numerics=treatment.numerics,
                planned=treatment.planned,
            )
            if offer.status == "offered":
                share = sum(shares.get(phase, 0.0) for phase in treatment.phases)
                factors.append(Factor(slug, offer.levels, treatment.interacts, treatment.ceiling, treatment.planned,
                                      treatment.numerics, share))
        self._directed = True
        self.conductor = Conductor(self, treatments, discover(Probe, self.settings["packages"]))  # type: ignore[type-abstract]
        experiment = Experiment(
            factors,
            budget=float(self.settings["budget"]),
            remaining=self.remaining,
            smallest_effect=float(self.settings["smallest_effect"]),
            seed=int(self.settings["seed"]) + self.lap,
            allow_numerics=bool(self.settings.get("allow_numerics")),
            history=_read_history(self.settings["history"]),
            excluded=self.settings["excluded"],
        )
        self.conductor.begin(experiment)

    def _affordable(self, offer: Offer) -> Offer:
        """The offer without levels whose first switch takes too much of the budget; the reason says which would do."""
        budget = float(self.settings["budget"])
        levels = tuple(level for level in offer.levels if level.expected_seconds <= LONGEST_SWITCH * budget)
        if levels or offer.status != "offered":
            return replace(offer, levels=levels)
        needed = min(level.expected_seconds for level in offer.levels)
        return Offer("untestable here", reason=(
            f"the first switch would take about {needed:.0f} s of a budget of {budget:.0f} s: "
            f"try --budget {math.ceil(needed / LONGEST_SWITCH / 10) * 10}"
        ))

    def _shares(self) -> dict[str, float]:
        """Share of the observed steps that each phase took."""
        steps = self.finder.steps()
        total = sum(step.seconds for step in steps) or 1.0
        return {name: sum(step.phases[place] for step in steps) / total for place, name in enumerate(PHASES)}

    def waiting_share(self) -> float:
        """Share of the observed steps that was spent waiting for data."""
        return self._shares().get("data", 0.0)

    def hold(self) -> None:
        """Keep the loop inside its epoch from now on."""
        if self.finder.shape is None:
            self.finder.settle()
        for handle in self.handles_in_step():
            handle.hold()
        self.holding = True
        for framework in frameworks.hold():
            self.recorder.write("held", framework=framework)

    def handles_in_step(self) -> list[loaders.Handle]:
        """The loaders that every step fetches from."""
        if self.finder.shape is None:
            return []
        return [self._handles[key] for key in self.finder.shape.fetches if key in self._handles]

    def _step(self, step: Step) -> None:
        assert self.finder.shape is not None
        regular = self.finder.shape.regular(step)
        if self.errand is not None:
            self.errand.on_step(step, regular)
        if self.conductor is None:
            self.steps_written += 1
            if self.steps_written <= KEPT_STEPS or not self.settings["experiment"]:
                self.recorder.steps.add(CLOCK_STEP if regular else IRREGULAR_STEP, step.seconds, step.phases)
            return
        if regular and self.conductor.counting() and self.conductor.arm == CONTROL_NAME:
            self._write_step(step, CONTROL_STEP)
        self.conductor.on_step(step, regular)

    def _write_step(self, step: Step, kind: int) -> None:
        self.steps_written += 1
        if self.steps_written <= KEPT_STEPS:
            self.recorder.steps.add(kind, step.seconds, step.phases)

    def restart_observation(self) -> None:
        """Look at the loop anew: another one begins (used by the overhead benchmark)."""
        self.finder = StepFinder()
        self.places = Places()
        self.loop.optimizers.clear()
        self._optimizers.clear()
        self._observing, self._first_step = True, None
        self.clock.restart()

    # -- devices and the end

    def restart_peak(self) -> None:
        """Begin to look for the most device memory in use, where the device tells."""
        if self.loop.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def device_peak(self) -> int | None:
        """Most bytes of device memory allocated at once since :meth:`restart_peak`; None where the device does not tell."""
        return int(torch.cuda.max_memory_allocated()) if self.loop.device == "cuda" else None

    def device_wait(self) -> None:
        """Wait until the device has done what was queued; nothing on a CPU."""
        if self.asynchronous:
            torch.cuda.synchronize()

    def end(self, reason: str) -> NoReturn:
        """End the user's script now, cleanly: nothing of it is needed any more."""
        self.recorder.write("end", reason=reason)
        if self.settings.get("library"):  # the process goes on: the caller of the loop waits for this
            raise ending.ScanComplete(0)
        self.ending = ending.Ending(self.recorder, self._close)
        self.ending.raise_first()

    def _write_last_steps(self) -> None:
        """Of a process that is only clocked: what has not been worked out yet."""
        if self._training and not (self._directed or self._observing):
            self._take_partials()

    def _close(self) -> None:
        self._write_last_steps()
        for handle in self._handles.values():
            handle.close()


CONTROL_NAME = "control"


def _in_full(value: Any) -> Any:
    """Reduced-precision tensors among a call's arguments as float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_in_full(v) for v in value)
    if isinstance(value, dict):
        return {k: _in_full(v) for k, v in value.items()}
    return value


def _read_history(path: str | None) -> list[dict[str, Any]]:
    if not path:
        return []
    with open(path, encoding="utf-8") as f:
        return list(json.load(f))


assert len(PHASES) == 7
assert sys.version_info >= (3, 10)
