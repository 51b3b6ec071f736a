"""The scan's experiment as a function: try the alternatives on one training step, in this process, and give it all back."""

from __future__ import annotations

import html as escaping
import itertools
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import perfdoc
from perfdoc.capture import document as captures
from perfdoc.capture import events
from perfdoc.capture.event import of
from perfdoc.capture.run import Run
from perfdoc.capture.settings import Settings
from perfdoc.core.errors import PerfdocError
from perfdoc.core.finding import Finding
from perfdoc.core.registry import packages
from perfdoc.core.treatment import config_id
from perfdoc.core.typed_json import to_json
from perfdoc.diagnosis.diagnose import Diagnosis, Plan, diagnose
from perfdoc.launch import page_faults
from perfdoc.launch.host_monitor import HostMonitor
from perfdoc.memory.plan import loss_of_batch
from perfdoc.report import first_screen, html
from perfdoc.report.model import build

if TYPE_CHECKING:
    import torch

NOTEBOOK_COLUMNS = 100
"""Width of what a bench prints, in characters: notebooks and test logs have no terminal to ask."""
MOST_LAPS = 4
"""Maximum number of times that the step is tried again after a change broke it."""


@dataclass(frozen=True)
class StepBench:
    """What came of :func:`bench_step`: prints as the terminal's summary, shows the report in a notebook."""

    diagnosis: Diagnosis

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, the most useful first."""
        return self.diagnosis.findings

    @property
    def plan(self) -> Plan | None:
        """The fastest stack of changes with its effect; None where nothing helps."""
        return self.diagnosis.plan

    @property
    def capture(self) -> captures.Capture:
        """All that was measured."""
        return self.diagnosis.capture

    def verdicts(self) -> dict[str, str]:
        """Verdict by arm (``autocast=bf16`` -> ``helps``)."""
        return {arm: self.diagnosis.seen.verdict(arm) for arm in self.diagnosis.seen.arms}

    def __str__(self) -> str:
        return first_screen.render(build(self.diagnosis), NOTEBOOK_COLUMNS)

    def _repr_html_(self) -> str:
        page = escaping.escape(html.render(build(self.diagnosis)), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:720px;border:0"></iframe>'


def bench_step(
    model: torch.nn.Module,
    batch: Any,
    loss_fn: Callable[..., Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    budget: float = 60.0,
    smallest_effect: float = 0.02,
    only: Sequence[str] = (),
    allow: Sequence[str] = (),
    seed: int | None = None,
) -> StepBench:
    """Train on ``batch`` again and again, try every alternative that applies, and say which make the step faster.

    ``batch``: ``(inputs, targets)``, for which the loss is ``loss_fn(model(inputs), targets)``; or a mapping, for which it is
    ``loss_fn(model(**batch))``, and without ``loss_fn`` what the model returns as its loss. A ``DataLoader`` of such batches
    is iterated, and its settings are tried too. The model is benched in the mode that it is in: say ``model.train()`` before.
    ``optimizer``: AdamW where it is left out. ``budget``: seconds from the first
    step on. ``smallest_effect``: a share. ``only``: names of treatments. ``allow``: ``("numerics",)`` lets the plan change the
    training's numbers. Weights, optimizer state, random numbers, and all settings are afterwards as they were before.

    Raises PerfdocError for a step that perfdoc cannot read; what the step itself raises comes through.
    """
    import torch

    from perfdoc.inject.experiment.numerics_runs import Snapshot

    if next(model.parameters(), None) is None:
        raise PerfdocError("the model has no parameters: there is no step to bench.")
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-4)
    gradients = [(p, p.grad) for p in model.parameters()]
    training = [(module, module.training) for module in model.modules()]
    before = Snapshot([model], [optimizer])
    settings = Settings(
        budget=budget, guard=False, experiment=True, only=list(only), packages=packages(), smallest_effect=smallest_effect,
        seed=random.randrange(2**31) if seed is None else seed, history=None, allow_numerics="numerics" in allow, library=True,
        # Workers of arms that are not measured stand still: a notebook's kernel that is killed must not leave them behind.
        dies_with_parent=True,
    )
    with tempfile.TemporaryDirectory(prefix="perfdoc-") as folder:
        started = time.time()
        try:
            for parameter, _ in gradients:
                parameter.grad = None  # the caller's own are not to be added to
            reason = _laps(folder, settings, lambda: _train(model, batch, loss_fn, optimizer))
        finally:
            before.restore()
            for module, was in training:
                module.training = was
            for parameter, gradient in gradients:
                parameter.grad = gradient
        run = Run(
            id="bench_step", command=["bench_step", type(model).__name__], directory=os.getcwd(),
            started=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(started)), seconds=round(time.time() - started, 2),
            perfdoc=perfdoc.__version__, budget=budget, smallest_effect=smallest_effect, seed=settings.seed, laps=1,
            outcome="complete", reason=reason, exit_code=0,
        )
        capture = captures.from_events(captures.read_events(Path(folder)), run, HostMonitor.describe())
        capture.measurements.append(page_faults.measure())
        return StepBench(diagnose(capture))


def _train(model: Any, batch: Any, loss_fn: Callable[..., Any] | None, optimizer: Any) -> None:
    """The loop that people write, without an end."""
    from torch.utils.data import DataLoader

    while True:
        for given in batch if isinstance(batch, DataLoader) else itertools.repeat(batch, 1):
            optimizer.zero_grad()
            loss = loss_of_batch(model, given, loss_fn)
            loss.backward()
            optimizer.step()


def _laps(folder: str, settings: Settings, train: Callable[[], None]) -> str:
    """Run the experiment in ``train``; again without a change that broke it. Says why it is not all there, if so."""
    from perfdoc.inject.session import Session
    from perfdoc.inject.system.ending import ScanComplete
    from perfdoc.inject.system.recorder import Recorder

    excluded: list[str] = []
    spent = 0.0
    for lap in range(MOST_LAPS):
        blocks = [event.record for event in of(events.BlockEnded, captures.read_events(Path(folder)))]
        history = Path(folder) / "history.json"
        history.write_text(json.dumps(to_json(blocks)), encoding="utf-8")
        recorder = Recorder(folder, lap)
        asked = replace(settings, lap=lap, spent=spent, history=str(history), excluded=excluded)
        session = Session(recorder, asked)
        session.install()
        began = time.monotonic()
        try:
            train()
        except ScanComplete:
            return ""
        except Exception as error:
            # Under a change it is the change that broke the step; without one the caller's own error comes through.
            config = session.runner.config if session.runner is not None else {}
            if not config:
                raise
            name = config_id(config)
            recorder.write(events.ArmFailed(arm=name, error=f"{type(error).__name__}: {error}"))
            excluded.append(name)
        finally:
            session.uninstall()
            spent += time.monotonic() - began
    return "changes kept breaking the step"
