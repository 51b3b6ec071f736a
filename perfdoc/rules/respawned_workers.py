"""PD105: workers are ended and started again at every epoch."""

from __future__ import annotations

import math
import random
import statistics

from perfdoc.core.finding import Effect, Finding, Verdict, counted
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule

FEWEST_TURNS = 2
"""Minimum number of turns of each kind for an interval: drawn again and again, a single one is always itself."""


class RespawnedWorkers(Rule):
    """Workers are started anew at the start of every epoch.

    What it measures
    ----------------
    The time from the end of an epoch to the first batch of the next one, on short epochs of your own loader: in turns with
    workers that are started anew and with workers that stay. The effect is that on a whole epoch, steps included.

    Why it costs time
    -----------------
    Without ``persistent_workers=True`` every epoch ends its workers and starts new ones. With the spawn start method each
    of them imports torch and unpickles the data set again. This matters most if epochs are short.

    Example
    -------
    ::

        loader = DataLoader(dataset, batch_size=32, num_workers=2)

    Use instead
    -----------
    ::

        loader = DataLoader(dataset, batch_size=32, num_workers=2, persistent_workers=True)

    When this is wrong
    ------------------
    If memory is short and a validation loader has workers too: the persistent workers of both stay alive at the same time. If
    your code changes the data set between epochs: persistent workers do not see the change.
    """

    code = "PD105"
    slug = "respawned-workers"
    names_cause = "run"
    needs = ("loader.turnover", "loader.batches_an_epoch", "step.time")

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where turns were measured and the loader respawns its workers, now or with the planned count."""
        respawned = seen.measurement("loader.turnover", kind="respawned")
        persistent = seen.measurement("loader.turnover", kind="persistent")
        batches = seen.measurement("loader.batches_an_epoch")
        loop = seen.capture.loop
        if respawned is None or persistent is None or batches is None or loop is None:
            return None
        loader = loop.loaders[0]
        if loader.persistent_workers:
            return None
        steps = max(1.0, batches.median / max(1, loader.batches_a_step))
        epoch = seen.step_seconds * steps
        rng = random.Random(0)
        ratios, saved = [], []
        for _ in range(1000):
            before = statistics.fmean(rng.choices(respawned.samples, k=len(respawned.samples)))
            after = statistics.fmean(rng.choices(persistent.samples, k=len(persistent.samples)))
            ratios.append((epoch + before) / (epoch + after))
            saved.append((before - after) / steps)
        ratios.sort()
        saved.sort()
        pairs = min(len(respawned.samples), len(persistent.samples))
        effect = Effect(
            (epoch + respawned.mean) / (epoch + persistent.mean), ratios[25], ratios[974], pairs, "measured in isolation",
        ) if pairs >= FEWEST_TURNS else None
        verdict: Verdict = "undecided"
        if seen.withheld:
            verdict = "withheld"
        elif effect is None:
            pass
        elif effect.low > 1 and effect.speedup > 1 + seen.asked_effect:
            verdict = "helps"
        elif effect.high < 1 and 1 / effect.speedup > 1 + seen.asked_effect:
            verdict = "hurts"
        elif abs(math.log(effect.low)) < seen.asked_effect and abs(math.log(effect.high)) < seen.asked_effect:
            verdict = "no difference"
        workers = int(respawned.conditions["workers"])
        title = (
            f"persistent_workers=True with num_workers={workers}: the turn of an epoch takes {persistent.mean:.2f} s instead "
            f"of {respawned.mean:.2f} s, beside {epoch:.1f} s of steps"
        )
        return Finding(
            self.code, self.slug, title, seen.loader_site, verdict, "persistent_workers=True",
            (f"epoch of {steps:.0f} steps; {counted(pairs, 'turn')} of each kind"
             + ("" if effect is not None else ": too few for an interval"),), effect, self.effort,
            saved[25] if effect is not None else 0.0,
        )
