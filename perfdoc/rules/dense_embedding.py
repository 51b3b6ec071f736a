"""PD320: every step goes through all rows of a table of which it uses few."""

from __future__ import annotations

import math

from perfdoc.core.finding import Finding
from perfdoc.core.measurement import Measurement
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, describe, worth_a_word

FEW = 0.05
"""Maximum share of a table's rows with a gradient for sparse gradients to be spoken of: they cost more for each row."""
ARM = "sparse_embedding=on"
LEAST_LEFT = 0.02
"""Minimum share of a step that a bound leaves: the rest of it is measured no better than that."""


class DenseEmbedding(Rule):
    """Large embeddings with dense gradients, although a batch looks up few of their rows.

    What it measures
    ----------------
    Which share of the rows of each large ``nn.Embedding`` gets a gradient in one watched step of your loop; what making that
    gradient for all rows costs, timed beside the loop with the step's own indices; and the optimizer's time, by the table's
    share of all parameters. That is a bound: the sparse update itself is taken to cost nothing. Where it can be tried, sparse
    gradients and SparseAdam are switched on and off in your running loop; tables and moments are put back as they were.

    Why it costs time
    -----------------
    The gradient of a dense embedding has the shape of the whole table. Every step fills it with zeros, adds the few rows of
    the batch, and the optimizer then reads and writes every row, its gradient and its moments.

    Example
    -------
    ::

        class Table(nn.Module):
            def __init__(self):
                super().__init__()
                self.items = nn.Embedding(200_000, 8)

            def forward(self, x):
                return self.items(x.flatten(1).argmax(1))

        model = Table()
        optimizer = torch.optim.Adam(model.parameters())

    Use instead
    -----------
    ::

        class Table(nn.Module):
            def __init__(self):
                super().__init__()
                self.items = nn.Embedding(200_000, 8, sparse=True)

            def forward(self, x):
                return self.items(x.flatten(1).argmax(1))

        model = Table()
        optimizer = torch.optim.SparseAdam(model.parameters())

    When this is wrong
    ------------------
    It changes training: with SparseAdam the moments of rows without a gradient no longer decay, nor do these rows go on moving
    by them, and there is no weight decay. Clipping by the norm of all gradients has to be done without these tables. So
    it is never part of a plan.
    """

    code = "PD320"
    slug = "dense-embedding"
    names_cause = "time"
    needs = ("step.time", "step.backward", "step.optimizer", "embedding.rows_used", "embedding.backward",
             "embedding.parameters", "sparse_embedding.speedup")
    effort = "a change of design"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding about the tables of which few rows get a gradient, where going through them could be felt."""
        tables = sorted((m for m in seen.measurements("embedding.rows_used") if m.mean < FEW),
                        key=lambda m: -int(m.conditions["rows"]) * int(m.conditions["width"]))
        saved = sum(_seconds(seen, table) for table in tables)
        if not tables or not worth_a_word(saved, seen):
            return None
        at_most = 1 / max(LEAST_LEFT, 1 - saved / seen.step_seconds)
        rows = sum(int(table.conditions["rows"]) for table in tables)
        used = sum(table.mean * int(table.conditions["rows"]) for table in tables)
        names = " and ".join(str(table.conditions["table"]) for table in tables[:3]) + (" ..." if len(tables) > 3 else "")
        share = min(1.0, saved / seen.step_seconds)
        effect, verdict = seen.effect(ARM), seen.verdict(ARM)
        if effect is not None and effect.known:
            at_most = max(at_most, effect.high)
        where, evidence = next((_site(t) for t in tables if _site(t)), ""), self._evidence(seen, tables)
        told = f"at most {at_most:.2g}x faster without"
        if effect is not None and effect.known and effect.low > 1:
            settled = "is" if verdict == "helps" else "came out"
            told = f"with sparse gradients, which change training, it {settled} {effect.speedup:.2f}x faster"
        title = (f"{used / rows:.1%} of the {rows:,} rows of {names} get a gradient, but every step computes and updates all "
                 f"of them: {share:.0%} of the step, {told}")
        if verdict in ("helps", "hurts", "no difference"):
            return self.finding(seen, ARM, title if verdict == "helps" else describe(seen, ARM), where, _fix(seen), evidence)
        tried = [describe(seen, ARM)] if effect is not None else []
        return Finding(self.code, self.slug, title, where, "undecided", _fix(seen), (*tried, *evidence), effort=self.effort,
                       seconds_saved_a_step=min(saved, (1 - LEAST_LEFT) * seen.step_seconds))

    def _evidence(self, seen: Evidence, tables: list[Measurement]) -> list[str]:
        """Each table with its line, the optimizer's, and that it changes training."""
        lines = []
        for table in tables:
            about = table.conditions
            place = f", made at {_site(table)}" if _site(table) else ""
            lines.append(f"{about['table']}: {about['rows']:,} x {about['width']}, {table.mean:.2%} of the rows get a gradient"
                         f"{place}; at most {_seconds(seen, table) * 1e3:.3g} ms a step")
        places = seen.capture.loop.places if seen.capture.loop else None
        made = next((call.made for call in (places.trail if places else []) if call.made), None)
        if made:
            lines.append(f"the optimizer that updates all rows is made at {made[0].rsplit('/', 1)[-1]}:{made[1]}")
        return [*lines, "changes training (moments and weight decay of rows without a gradient): never part of a plan"]


def _site(table: Measurement) -> str:
    return str(table.conditions.get("site", ""))


def _seconds(seen: Evidence, table: Measurement) -> float:
    """Seconds a step that the rows without a gradient cost: their gradient, and their part of the optimizer's time.

    The gradient was made beside the loop, at another moment: it is taken to cost no more than backward does.
    """
    name = str(table.conditions["table"])
    backward = seen.measurement("embedding.backward", table=name)
    held = seen.measurement("embedding.parameters", table=name)
    updating = held.mean * _phase(seen, "optimizer") if held is not None else 0.0
    made = backward.median if backward is not None else 0.0
    whole = math.fsum(m.median for m in seen.measurements("embedding.backward"))
    if whole > _phase(seen, "backward") > 0:
        made *= _phase(seen, "backward") / whole
    return (1 - table.mean) * (updating + made)


def _phase(seen: Evidence, name: str) -> float:
    """Seconds a step of a phase: its share of the steps that were looked at, of the step as it is told; 0 if not known."""
    phase, step = seen.measurement(f"step.{name}"), seen.measurement("step.time")
    return phase.mean / step.mean * seen.step_seconds if phase is not None and step is not None and step.mean else 0.0


def _fix(seen: Evidence) -> str:
    """What to write, by the optimizer that is used."""
    optimizers = set(seen.capture.loop.optimizers) if seen.capture.loop else set()
    if optimizers & {"Adam", "AdamW", "NAdam", "RAdam", "Adamax"} or not optimizers:
        return "nn.Embedding(..., sparse=True) and torch.optim.SparseAdam for these tables, the optimizer as it is for the rest"
    if optimizers <= {"SGD", "Adagrad"}:
        return "nn.Embedding(..., sparse=True): SGD (without weight decay) and Adagrad take sparse gradients as they are"
    return "nn.Embedding(..., sparse=True), and an optimizer for these tables that takes sparse gradients (SparseAdam, SGD)"
