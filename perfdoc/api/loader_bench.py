"""``perfdoc.bench_loader``: the bench of a DataLoader as a function, for notebooks and tests."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfdoc.capture.document import merged
from perfdoc.capture.records import BenchedLoader
from perfdoc.core.errors import PerfdocError
from perfdoc.core.measurement import Measurement, Unavailable
from perfdoc.loader_bench import answer as loader_answer
from perfdoc.loader_bench.answer import LoaderAnswer
from perfdoc.loader_bench.bench import LoaderBench
from perfdoc.loader_bench.open_resources import open_resources
from perfdoc.loader_bench.setting import settings_of
from perfdoc.report import loader_table

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


@dataclass(frozen=True)
class LoaderBenchResult:
    """What came of :func:`bench_loader`: prints as a table with the answer, shows as a table in a notebook."""

    answer: LoaderAnswer
    about: BenchedLoader
    measurements: tuple[Measurement | Unavailable, ...]
    """All raw samples."""

    @property
    def recommended(self) -> int:
        """The smallest worker count within 3% of the best."""
        assert self.answer.recommended is not None
        return self.answer.recommended.workers

    def __str__(self) -> str:
        return loader_table.render(self.answer, self.about)

    def _repr_html_(self) -> str:
        heads, lines = loader_table.lines(self.answer)
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in loader_table.notes(self.answer, self.about))
        return (
            f"<p><b>{html.escape(self.answer.sentence)}</b></p><table><tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr>{cells}"
            f"</table><ul>{notes}</ul>"
        )


def bench_loader(
    loader: DataLoader[Any],
    workers: Iterable[int] = range(17),
    *,
    budget: float = 60.0,
    step_time: float | None = None,
    prefetch: Sequence[int] = (),
    pin_memory: Sequence[bool] = (),
    persistent: Sequence[bool] = (),
    batch_size: Sequence[int] = (),
    multiprocessing_context: Sequence[str] = (),
    in_order: Sequence[bool] = (),
    seed: int = 0,
) -> LoaderBenchResult:
    """Iterate ``loader`` alone under every combination of settings, and say how many workers to use.

    ``loader`` is not changed: twins of it are iterated. ``budget``: seconds; less is used where the order is settled earlier.
    ``step_time``: seconds that a step takes without waiting for its batch: the demand to meet.

    Raises PerfdocError where no setting delivers a batch.
    """
    from torch.utils.data import DataLoader

    from perfdoc.inject.system.cores import available_cores

    if not isinstance(loader, DataLoader):
        raise PerfdocError(f"bench_loader needs a torch.utils.data.DataLoader, not {type(loader).__name__}.")
    if step_time is not None and not step_time > 0:
        raise PerfdocError(f"step_time={step_time}: a step takes more than 0 seconds.")
    found: list[Measurement | Unavailable] = []
    failed: dict[str, str] = {}
    others = {
        "prefetch": prefetch, "pin_memory": pin_memory, "persistent": persistent, "batch_size": batch_size,
        "context": multiprocessing_context, "in_order": in_order,
    }
    bench = LoaderBench(
        loader, settings_of(workers, others), budget, found.append,
        lambda setting, why: failed.update({loader_answer.setting_name(setting.conditions): why}), seed=seed,
    )
    bench.run()
    if step_time is not None:
        size = {"batch_size": loader.batch_size} if isinstance(loader.batch_size, int) else {}
        found.append(Measurement("loader.demand", "1/s", (1 / step_time,), size))
    found.append(Measurement("loader.num_workers", "count", (float(loader.num_workers),)))
    answer = loader_answer.read(merged(found), failed)
    assert answer is not None
    about = BenchedLoader(
        site="bench_loader", dataset=type(loader.dataset).__name__, batch_size=loader.batch_size,
        workers=loader.num_workers, length=_length(loader), held=open_resources(loader.dataset),
        cores=available_cores(), device="",
    )
    return LoaderBenchResult(answer, about, tuple(found))


def _length(loader: DataLoader[Any]) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None
