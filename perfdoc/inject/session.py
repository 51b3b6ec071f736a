"""One training process under perfdoc: what is wrapped, and how events reach clock, step finder and conductor.

Wrapped are ``_BaseDataLoaderIter.__next__`` (where batches come from), the calls of outermost modules,
``torch.autograd.backward`` and ``grad``, and, through torch's own global hooks, ``Optimizer.step``. All wrappers pass
straight through on other threads, in forked children, and after the scan.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import statistics
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from time import perf_counter
from typing import Any, NoReturn

import torch
import torch.optim.optimizer as torch_optimizer

from perfdoc.core import step_log
from perfdoc.core.blocks import Block
from perfdoc.core.metrics import PHASES
from perfdoc.core.parent_death import die_with_parent
from perfdoc.core.probe import Probe
from perfdoc.core.registry import discover
from perfdoc.core.treatment import Treatment, config_id
from perfdoc.core.typed_json import from_json
from perfdoc.inject.experiment.applicability import factors
from perfdoc.inject.experiment.experiment import Experiment
from perfdoc.inject.experiment.follower import Follower
from perfdoc.inject.experiment.heap_thresholds import MallocThresholds, Thresholds
from perfdoc.inject.experiment.numerics_runs import Listener
from perfdoc.inject.experiment.runner import Conductor, median_step
from perfdoc.inject.experiment.watchdog import Watchdog
from perfdoc.inject.feed import loaders
from perfdoc.inject.feed.epoch import SHORTEST_STEPS
from perfdoc.inject.feed.known_loaders import KnownLoaders
from perfdoc.inject.observe import carried_state, frameworks, user_settings
from perfdoc.inject.observe.call_sites import Places
from perfdoc.inject.observe.clock import BACKWARD, DATA, FETCHED, FORWARD, LEAVE, LOSS, OPTIMIZER, Clock
from perfdoc.inject.observe.loop_description import describe
from perfdoc.inject.observe.loop_view import LoopView
from perfdoc.inject.observe.modules import OutermostCalls, trained_parents
from perfdoc.inject.observe.step_finder import BACKWARD_ONLY, Shape, Step, StepFinder
from perfdoc.inject.observe.torch_hooks import Wrappers
from perfdoc.inject.observe.validation import ValidationWatch
from perfdoc.inject.system import ending
from perfdoc.inject.system.recorder import Recorder

OBSERVE_SECONDS = 1.0
OBSERVE_STEPS = 5
QUICK_SHARE = 0.15
"""Share of the time that an earlier launch trained which may be spent on looking at the loop: a script that ends by itself
after half a second would never be held."""
NO_TRIES = -(10**9)
"""Where calls of the model are counted from that are no tries of a step."""
LATE_SHARE = 0.15
"""Maximum share of the budget that goes by before the loop is known: samples drawn or a validation after the first step are the
script's start, not its loop."""
MOST_TRIES = 50
TRIES_FACTOR = 4
"""Maximum number of calls of the model under a change without a step: 50, and four times those of an ordinary step. A script
that catches what fails and tries again would do so for ever."""
CHANGED_STEPS = 6
"""Number of steps in a row, under the user's own settings and beyond the epoch's natural length, that did other work than
those before: then the script sees that its epoch does not end."""
USUAL_SHARE = 0.9
"""Minimum share of the steps before that did the same work, for other work afterwards to mean anything."""
LONG_OBSERVATION = 8.0
"""Seconds after which three whole steps are enough to know the loop."""
BACKWARDS_WITHOUT_OPTIMIZER = 8
"""Backward calls after which a process that holds no optimizer is taken to update its parameters by hand."""
CONTROL_STEP, OBSERVED_STEP, CLOCK_STEP, IRREGULAR_STEP = range(len(step_log.KINDS))
EVALUATING = 30.0
"""Seconds of forward passes without backward after which a script is taken to evaluate only (sanity checks are shorter)."""
KEPT_STEPS = 4000
"""Steps whose phases are written one by one; later ones are only in their blocks."""


current: Session | None = None
"""The session of this process, for perfdoc's own benchmarks."""


class Session:
    """Clock, step finder and conductor of one process, and the wrappers that feed them."""

    def __init__(self, recorder: Recorder, settings: Mapping[str, Any]) -> None:
        self.recorder = recorder
        self.settings = settings
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
        self.malloc_before: Thresholds | None = None
        """glibc's thresholds before the first step, where there will be an experiment."""
        self._experiments = bool(settings["experiment"]) and not settings.get("errand")
        self.conductor: Conductor | None = None
        self.follower: Follower | None = None
        self._directed = False
        """Whether conductor, follower or errand decide about treatments, at every step."""
        self.errand: Any = None
        """What is done with the loop in place of an experiment: an object with ``active`` hooks and
        ``on_step(step, regular)``."""
        self._validation = ValidationWatch(self.loop)
        self.ending: ending.Ending | None = None
        self.listener: Listener | None = None
        self.loaders = KnownLoaders(lambda site: self.seen("first batch", site=site))
        self._seen: set[str] = set()
        self._first_step: float | None = None
        self._observe_seconds = OBSERVE_SECONDS
        if settings.get("trained_seconds") is not None:
            self._observe_seconds = min(OBSERVE_SECONDS, QUICK_SHARE * float(settings["trained_seconds"]))
        self.natural = bool(settings.get("natural"))
        """Whether epochs end where they end without perfdoc, though the batches come from elsewhere."""
        self.turns = 0
        """Epochs that ended while the loop was held, as far as steps have been looked at."""
        self.overran = False
        """Whether the loop was given more batches than its epoch has."""
        self._other_work = 0
        self._work_done: Counter[Any] = Counter()
        """Steps under the user's own settings, held and within the natural length of the epoch, by what they did."""
        self._tries = 0
        """Calls of the model in training, under a change, since the last step."""
        self._end_wish = ""
        self._natural_wish = ""
        self.watchdog = Watchdog(self)
        self.training = False
        self._stepping = 0
        self._has_optimizer = False
        self._hand_backwards = 0
        self._with_parameters: dict[int, bool] = {}
        self.steps_written = 0
        self._optimizers: set[int] = set()
        self._observing = True
        self._calls = OutermostCalls(self._forward, self.clock.mine)
        self._wrappers = Wrappers(self)
        self._release_observers: Callable[[], None] | None = None
        self._hooks: list[Any] = []
        self._loader_wanted = settings.get("loader_after") is not None
        self._first_fetch: float | None = None

    @cached_property
    def malloc(self) -> MallocThresholds:
        """glibc's thresholds; looked for when they are first asked for."""
        return MallocThresholds()

    # -- wrapping torch

    def install(self) -> None:
        """Wrap torch. Called once, right after torch was imported."""
        global current
        current = self
        self._wrappers.install()
        self._hooks = [
            torch_optimizer.register_optimizer_step_pre_hook(self._before_step),
            torch_optimizer.register_optimizer_step_post_hook(self._after_step),
        ]
        self._calls.observe()
        self._release_observers = user_settings.watch(self)
        session_of = weakref.ref(self)  # the registration cannot be taken back: it must not keep a user's model alive

        def forked() -> None:
            alive = session_of()
            if alive is not None:
                alive._forked()

        os.register_at_fork(after_in_child=forked)
        atexit.register(self._write_last_steps)

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
        self._stop_observing()
        self._calls.release()
        for hook in self._hooks:
            hook.remove()
        for optimizer in self.loop.optimizers:
            optimizer.__dict__.pop("_perfdoc_made_at", None)
        self.loaders.forget()
        self._wrappers.undo()

    def _stop_observing(self) -> None:
        if self._release_observers is not None:
            self._release_observers()
            self._release_observers = None

    def _forked(self) -> None:
        """A forked child: a DataLoader worker is left alone, any other child starts a file of its own."""
        if os.environ.get("PERFDOC_WORKER") or self.training:
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
            if what in ("first batch", "backward") and not self.settings.get("library"):
                self.watchdog.begin()

    def fetch(self, iterator: Any) -> Any:
        """Next batch of a loader's iterator, timed; from the handle where the loop is held."""
        handle: loaders.Handle | None = iterator.__dict__.get("_perfdoc_handle")
        if handle is None:
            loader = iterator.__dict__.get("_perfdoc_loader")
            if loader is None or loaders.is_twin(loader):
                return loaders.original_next(iterator)
            handle = iterator._perfdoc_handle = self.loaders.of(loader, iterator)
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
                self._tries = NO_TRIES if self._directed else self._tries  # another loader's batches: a validation
                batch = self._own(handle, iterator) if self._observing else loaders.original_next(iterator)
            left = FETCHED - handle.key
        except StopIteration:
            handle.ended(iterator)
            raise
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

    def _own(self, handle: loaders.Handle, iterator: Any) -> Any:
        """The next batch of the user's own loader, before it is held."""
        began = perf_counter()
        batch = loaders.original_next(iterator)
        handle.took(perf_counter() - began)
        return batch

    def _fetched(self, handle: loaders.Handle) -> None:
        """An errand that wants a loader, and nothing may ever train: after a while it is given the one that is iterated."""
        if self.training or "backward" in self._seen:
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

    def _from(self, handle: loaders.Handle, iterator: Any) -> Any:
        if not handle.held:
            return loaders.original_next(iterator)
        self._count(handle)
        try:
            return handle.fetch()
        except Exception as error:
            if self.conductor is None or not self.conductor.config:
                raise
            self.conductor.fail(error)
        return handle.fetch()

    def _count(self, handle: loaders.Handle) -> None:
        """A held loader is asked for a batch. What a script does at the end of an epoch, it does under its own settings."""
        try:
            handle.epoch.take()
        except StopIteration:
            self._tries = NO_TRIES
            if self.conductor is not None and self.ranks == 1:
                self.conductor.pause()
            raise
        if handle.epoch.position == 1 and self.conductor is not None:
            self.conductor.resume()

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
                if self._experiments and self.malloc_before is None:
                    self.malloc_before = self.malloc.read()
        trained = self._with_parameters.get(id(module))
        if trained is None:
            trained = self._has_parameters(module)
        if trained and self._validation.wants(module):
            self._validation.saw(module, args, kwargs)
        clock = self.clock
        if clock.crowded():
            clock.work_out()
        clock.mark((FORWARD if trained else LOSS, perf_counter()))
        try:
            active = self._active() if self._directed else ()
            # Inside backward it is checkpointing that computes a part of the model again, as it was treated when it was called
            # first. It ends that by raising: no failure of ours.
            if torch._C._current_graph_task_id() != -1:
                return forward(*args, **kwargs)
            if not active:
                if self.conductor is not None and self.conductor.may_stumble:
                    return self._after_a_change(forward, args, kwargs)
                return forward(*args, **kwargs)
            if module.training and torch.is_grad_enabled():
                self._tries += 1
                if self._tries > self._most_tries() and self.ranks == 1 and self.conductor is not None:
                    self.conductor.fail(f"no step came of {self._tries - 1} calls of the model: the script catches what fails")
                    return self._again(forward, args, kwargs)
            try:
                return self._treated(module, active, forward, args, kwargs)
            except Exception as error:
                if self.ranks > 1 or self.conductor is None:
                    raise
                # Under a treatment the user's step failed: undo it, and do this call again as the user wrote it. What
                # the treatment computed so far may be in its precision, and the batch of its size.
                stumbled = error if self.conductor.may_stumble and carried_state.reduced((args, kwargs)) else None
                enlarged = self.conductor.enlarged()
                if stumbled is None:
                    self.conductor.fail(error)
            if stumbled is not None:
                # The change before this one may have left it: the same call with what it would be without that.
                full_args, full_kwargs = carried_state.in_full(args), carried_state.in_full(kwargs)
                try:
                    found = self._treated(module, active, forward, full_args, full_kwargs)
                    self.conductor.stumbled(stumbled)
                    return found
                except Exception:  # it was not that: this change is given up
                    self.conductor.fail(stumbled)
            if enlarged:
                carried_state.shrink_variables((args, kwargs), enlarged)
            return self._again(forward, args, kwargs)
        finally:
            clock.mark((LEAVE, perf_counter()))

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

    def _most_tries(self) -> int:
        """Calls of the model within one step from which a script is taken to try the same step again and again."""
        shape = self.finder.shape
        work = self.conductor.most_forwards() if self.conductor is not None else 1
        return MOST_TRIES + TRIES_FACTOR * work * (shape.forwards if shape is not None else 1)

    def _again(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that failed under a change, once more as the user wrote it."""
        if self.loop.device == "cuda":
            torch.cuda.empty_cache()  # what did not fit is free by now: the traceback that held it has gone
        return forward(*carried_state.in_full(args), **carried_state.in_full(kwargs))

    def _after_a_change(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call under the user's own settings in one of the first steps after a change: it may stumble over what that left."""
        try:
            return forward(*args, **kwargs)
        except Exception as error:
            if not carried_state.reduced((args, kwargs)):
                raise
            stumbled = error
        try:
            found = self._again(forward, args, kwargs)
        except Exception:  # it was not that: the script hears of its own failure
            raise stumbled from None
        assert self.conductor is not None
        self.conductor.stumbled(stumbled)
        return found

    def _has_parameters(self, module: Any) -> bool:
        """Whether the module can be trained; asked once a module, its parameters do not come and go."""
        known = self._with_parameters.get(id(module))
        if known is None:
            known = hasattr(module, "parameters") and next(module.parameters(), None) is not None
            self._with_parameters[id(module)] = known
        return known

    def backward(self, run: Callable[..., None], tensors: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A call of ``torch.autograd.backward``, timed and under the treatments that are on."""
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
        if not self.training:
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
        self.training = True
        self._tries = 0
        self.optimizer_calls += 1
        if self._first_step is None:
            self._first_step = time.monotonic()
            self.seen("optimizer step")
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
            if self.finder.changed:
                self._another_loop()
            if self.follower is not None:
                self.follower.on_call()
            elif self._observing:
                self._observe()
            elif step is not None:
                self._step(step)

    def _another_loop(self) -> None:
        """The optimizer that ended a step does not come any more, another one does (one layer after the other is trained)."""
        self.finder.changed = False
        assert self.finder.shape is not None
        self.calls_a_step = max(1, self.finder.shape.optimizer_calls)
        self.recorder.write("another_loop", optimizers=len(self.loop.optimizers))
        if self.conductor is not None:
            self.conductor.start_block_again()

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
        seconds = [partial.seconds for _, partial in self.finder.observed[1:]]
        if self._experiments and self.remaining() <= 0 and len(seconds) >= 2 and (
            statistics.median(seconds) > float(self.settings["budget"]) / 3
        ):
            self._too_slow()
        ready = len(steps) >= OBSERVE_STEPS and elapsed >= self._observe_seconds
        if not (ready or (len(steps) >= 3 and elapsed > LONG_OBSERVATION)):
            return
        shape = self.finder.settle()
        if shape is None:
            return
        self._observing = False
        # What is looked through now is large (a list of all living objects, for one): glibc must learn nothing from it.
        with self.malloc.leaving_nothing():
            rank = self._look_at_loop(shape, steps)
        if rank > 0 or not self._leads():
            if _distributed():
                self.follower = Follower(self, self._treatments())
                self._directed = True
            return
        self._begin()

    def _look_at_loop(self, shape: Shape, steps: list[Step]) -> int:
        """Find out and record what trains here; the rank of this process."""
        for handle_key, count in shape.fetches.items():
            if handle_key in self.loaders.handles:
                self.loaders.handles[handle_key].batches_a_step = count
        self.ranks = self.loop.ranks = torch.distributed.get_world_size() if _distributed() else 1
        rank = torch.distributed.get_rank() if _distributed() else int(os.environ.get("RANK", "0") or 0)
        self._look_at_model()
        regular = [step for step in steps if shape.regular(step)] or steps
        self.loop.step_seconds = median_step(regular)
        self.calls_a_step = max(1, shape.optimizer_calls)
        for step in regular:
            self._write_step(step, OBSERVED_STEP)
        self.recorder.write("loop", **describe(self, rank))
        self._calls.narrow(self.loop.models)
        self._stop_observing()
        return rank

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
            self._wrappers.time_transfers()

    def _treatments(self) -> dict[str, Treatment]:
        found = discover(Treatment, self.settings["packages"])  # type: ignore[type-abstract]
        return {treatment.slug: treatment for treatment in found}

    def _forget_late_start(self) -> None:
        """A loop that was known late, behind a long first callback, has its budget from then on, but for a share."""
        assert self._first_step is not None
        seconds = [partial.seconds for _, partial in self.finder.observed[1:]]
        of_steps = len(seconds) * statistics.median(seconds) if seconds else 0.0
        late = time.monotonic() - self._first_step - of_steps - LATE_SHARE * float(self.settings["budget"])
        if late > 0:
            self._first_step += late
            self.recorder.write("late_start", seconds=round(late, 3))

    def _too_slow(self) -> NoReturn:
        """The steps are so slow that the budget is over before the loop is known: say so, and end."""
        seconds = statistics.median(partial.seconds for _, partial in self.finder.observed[1:])
        self.recorder.write("too_slow", seconds=seconds)
        self.end("its steps are too slow for the budget")

    def _begin(self) -> None:
        if not self.lap:
            self._forget_late_start()
        if self._experiments and self.remaining() <= 0:
            self._too_slow()
        if self.settings.get("errand"):
            self.errand = importlib.import_module(self.settings["errand"]).Errand(self)
            self._directed = True
            return
        if not self.settings["experiment"]:
            return
        treatments = self._treatments()
        with self.malloc.leaving_nothing():
            offered = factors(self, treatments)
        self._directed = True
        self.conductor = Conductor(self, treatments, discover(Probe, self.settings["packages"]))  # type: ignore[type-abstract]
        experiment = Experiment(
            offered,
            budget=float(self.settings["budget"]),
            remaining=self.remaining,
            smallest_effect=float(self.settings["smallest_effect"]),
            seed=int(self.settings["seed"]) + self.lap,
            allow_numerics=bool(self.settings.get("allow_numerics")),
            history=_read_history(self.settings["history"]),
            verdicts=self.settings.get("verdicts") or {},
            excluded=self.settings["excluded"],
        )
        self.conductor.begin(experiment)

    def shares(self) -> dict[str, float]:
        """Share of the observed steps that each phase took."""
        steps = self.finder.steps()
        total = sum(step.seconds for step in steps) or 1.0
        return {name: sum(step.phases[place] for step in steps) / total for place, name in enumerate(PHASES)}

    def waiting_share(self) -> float:
        """Share of the observed steps that was spent waiting for data."""
        return self.shares().get("data", 0.0)

    def hold(self) -> None:
        """Keep the loop inside its epoch from now on."""
        if self.finder.shape is None:
            self.finder.settle()
        for handle in self.handles_in_step():
            handle.hold()
            handle.epoch.overran = self._overran
        self.holding = True
        self.watchdog.held()
        if self.natural:
            self.go_natural("an earlier launch failed beyond the natural length of its epoch")
            return
        for framework in frameworks.hold():
            self.recorder.write("held", framework=framework)

    def _overran(self, length: int) -> None:
        """The loop is about to be given one batch more than its epoch has."""
        if not self.overran:
            self.overran = True
            self.recorder.write("overran", batches=length)

    def go_natural(self, why: str) -> None:
        """Let epochs end where they end without perfdoc, from the next batch on."""
        self.natural = True
        held = [handle for handle in self.handles_in_step() if handle.epoch.length is not None]
        for handle in held:
            handle.epoch.natural = True
        self.recorder.write("natural", why=why, loaders=len(held))

    def wish_end(self, why: str) -> None:
        """End the experiment at the end of the step that runs. May be called from another thread."""
        self._end_wish = self._end_wish or why

    def wish_natural(self, why: str) -> None:
        """Let epochs end from the end of the step that runs on. May be called from another thread."""
        self._natural_wish = self._natural_wish or why

    def hard_exit(self, why: str) -> None:
        """End the process now, from another thread."""
        ending.Ending(self.recorder, self._close).hard(why)

    def arm_id(self) -> str:
        """What is on now, for events."""
        return config_id(self.conductor.config) if self.conductor is not None else config_id({})

    def _turned(self) -> bool:
        """Whether an epoch ended within the step that has just ended."""
        turns = sum(handle.epoch.turns for handle in self.handles_in_step())
        before, self.turns = self.turns, turns
        return turns > before

    def _sees_the_hold(self, step: Step) -> bool:
        """Whether steps under the user's own settings do other work since the epoch's natural length was passed."""
        assert self.conductor is not None
        if self.natural or self.conductor.config or self.ranks > 1:  # all ranks end an epoch, or none
            return False
        work = (tuple(sorted(step.fetches.items())), step.backwards, step.optimizer_calls)
        if not self.overran:
            self._work_done[work] += 1
            return False
        usual, count = max(self._work_done.items(), key=lambda entry: entry[1], default=(work, 0))
        if count < max(CHANGED_STEPS, USUAL_SHARE * self._work_done.total()):
            return False
        self._other_work = 0 if work == usual else self._other_work + 1
        return self._other_work >= CHANGED_STEPS

    def handles_in_step(self) -> list[loaders.Handle]:
        """The loaders that every step fetches from."""
        if self.finder.shape is None:
            return []
        return [self.loaders.handles[key] for key in self.finder.shape.fetches if key in self.loaders.handles]

    def _step(self, step: Step) -> None:
        assert self.finder.shape is not None
        turned = self._turned()
        regular = self.finder.shape.regular(step) and not (turned and self._long_epochs())
        if self.errand is not None:
            self.errand.on_step(step, regular)
        if self.conductor is None:
            self.steps_written += 1
            if self.steps_written <= KEPT_STEPS or not self.settings["experiment"]:
                self.recorder.steps.add(CLOCK_STEP if regular else IRREGULAR_STEP, step.seconds, step.phases)
            return
        if regular and self.conductor.counting() and self.conductor.arm == CONTROL_NAME:
            self._write_step(step, CONTROL_STEP)
        if self._end_wish and not self.conductor.done:
            self.conductor.finish(self._end_wish)
        if self._natural_wish and not self.natural and self.ranks == 1:
            self.go_natural(self._natural_wish)
        if self._sees_the_hold(step):
            self.go_natural("its steps did other work beyond the natural length of the epoch")
            self.conductor.start_block_again()
        self.conductor.on_step(step, regular, turned)

    def _long_epochs(self) -> bool:
        """Whether an epoch has ordinary steps beside the one with its turn."""
        return all(
            handle.epoch.length is None or handle.epoch.length >= SHORTEST_STEPS * handle.batches_a_step
            for handle in self.handles_in_step()
        )

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
        if self.training and not (self._directed or self._observing):
            self._take_partials()

    def _close(self) -> None:
        self._write_last_steps()
        self.loaders.close()


CONTROL_NAME = "control"


def _distributed() -> bool:
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def _read_history(path: str | None) -> list[Block]:
    if not path:
        return []
    with open(path, encoding="utf-8") as f:
        return [from_json(Block, entry) for entry in json.load(f)]


assert len(PHASES) == 7
assert sys.version_info >= (3, 10)
