"""``perfdoc memory``: what a script's step needs in memory, by batch, precision and checkpointing, without a GPU."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class Bytes(click.ParamType[int]):
    """A size as people write it: ``24GiB``, ``80GB``, ``16G``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The size in bytes; a clear line where it is none."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?I?)B?\s*", str(value).upper())
        try:
            size = float(found[1]) * UNITS[found[2]] if found else 0.0
        except (ValueError, KeyError):
            size = 0.0
        if size <= 0:
            self.fail(f"{value!r} is no size. Say for example 24GiB.", param, ctx)
        return int(size)


class Sizes(click.ParamType[tuple[int, ...]]):
    """Batch sizes: ``64,128,256``."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The sizes in order; a clear line where one is no positive number."""
        if isinstance(value, tuple):
            return value
        try:
            sizes = tuple(sorted({int(part) for part in str(value).split(",")}))
        except ValueError:
            sizes = ()
        if not sizes or sizes[0] < 1:
            self.fail(f"{value!r} is no list of batch sizes. Say for example 64,128,256.", param, ctx)
        return sizes


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--batch", "batches", type=Sizes(), default=(), metavar="SIZES",
              help="Batch sizes to plan, separated by commas [default: the script's own].")
@click.option("--device-memory", type=Bytes(), metavar="SIZE", help="Also say what fits: 24GiB, 80GB...")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), multiple=True,
              help="Plan only this precision [default: both; bf16 for a loop that uses autocast itself].")
@click.option("--optimizer", "optimizers", multiple=True, metavar="NAME",
              help="Plan another of torch.optim besides: SGD, Adam...")
@click.option("--no-checkpointing", is_flag=True, help="Plan only without activation checkpointing.")
@click.option("--wait", default=300.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=1),
              help="Give up if there is no optimizer step by then.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(
    batches: tuple[int, ...], device_memory: int | None, precision: tuple[str, ...], optimizers: tuple[str, ...],
    no_checkpointing: bool, wait: float, as_json: bool, command: tuple[str, ...],
) -> None:
    """Plan the memory of a training script's step: `perfdoc memory --batch 64,128 --device-memory 24GiB train.py`.

    The script runs, as it is, until a few of its steps were seen; one is caught and worked out on tensors without data for
    every batch size, with and without checkpointing and bf16. Needs no GPU, and no memory for the batches planned.
    A lower bound: workspaces of kernels and the device's context are not in it.
    """
    from perfdoc.capture.document import read_events
    from perfdoc.capture.event import last
    from perfdoc.capture.events import MemoryPlanned
    from perfdoc.capture.settings import MemoryAsked
    from perfdoc.commands._progress import Progress
    from perfdoc.core.errors import PerfdocError
    from perfdoc.launch.environment import resolve
    from perfdoc.launch.scan import Options, Scan
    from perfdoc.memory.answer import MemoryPlan, Planned
    from perfdoc.report import terminal

    before = sys.argv[1:]
    dashed = "--" in before and list(command) == before[before.index("--") + 1 :]
    asked = MemoryAsked(
        batches=list(batches), device_memory=device_memory, precisions=list(precision),
        checkpointing=[False] if no_checkpointing else [False, True], optimizers=list(optimizers),
    )
    with tempfile.TemporaryDirectory(prefix="perfdoc-") as folder:
        options = Options(resolve(command, dashed), budget=600.0, wait=wait, folder=Path(folder), experiment=False,
                          errand="perfdoc.memory.task", memory=asked)
        scan = Scan(options, lambda event: None)
        with Progress(options.budget, sys.stderr) as progress:
            scan.show = progress.show
            capture = scan.run()
        planned = last(MemoryPlanned, read_events(scan.folder))
        if planned is None:
            if capture.run.outcome in ("failed", "never trained"):
                terminal.show_failure(capture, scan.log, True)
            else:
                click.echo(f"perfdoc: {capture.run.reason or 'the script ended before a step could be caught'}", err=True)
            sys.exit(capture.run.exit_code or 3)
    if planned.error is not None:
        raise PerfdocError(planned.error.strip(), 3)
    if as_json:
        click.echo(json.dumps({"model": planned.model, "rows": planned.rows, "device_memory": planned.device_memory,
                               "largest": planned.largest}, indent=1))
        return
    plan = MemoryPlan(
        tuple(Planned(**row) for row in planned.rows), planned.device_memory,
        {(checkpointing, name, optimizer): size for checkpointing, name, optimizer, size in planned.largest},
    )
    click.echo(f"{planned.model}: the most memory that a step holds at once, planned without running it\n\n{plan}")
