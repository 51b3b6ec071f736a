"""``perfdoc bench-loader``: how many workers, from measurement."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from perfdoc.capture.document import Capture

MOST_WORKERS = 512


class Counts(click.ParamType[tuple[int, ...]]):
    """Whole numbers as people list them: ``0,2,4``, ``0..16``, ``0..16..4``."""

    name = "counts"

    def __init__(self, least: int = 0, most: int = MOST_WORKERS) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers in order; a clear line where it is no such list."""
        if isinstance(value, tuple):
            return value
        found: set[int] = set()
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+)(?:\.\.(\d+))?)?\s*", part)
            if match is None:
                self.fail(f"{value!r} is no list of numbers. Say for example 0..16, 0..16..4 or 0,2,4.", param, ctx)
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            if last < first or step < 1:
                self.fail(f"{part!r} runs backwards. Say for example 0..16 or 0..16..4.", param, ctx)
            if first < self.least or last > self.most:
                self.fail(f"{value!r}: numbers from {self.least} to {self.most} are possible.", param, ctx)
            found |= set(range(first, last + 1, step))
        return tuple(sorted(found))


class Flags(click.ParamType[tuple[bool, ...]]):
    """``yes``, ``no`` or ``both``."""

    name = "yes|no|both"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[bool, ...]:
        """The values to try."""
        if isinstance(value, tuple):
            return value
        known = {"yes": (True,), "no": (False,), "both": (False, True)}
        if str(value).lower() not in known:
            self.fail(f"{value!r}: say yes, no or both.", param, ctx)
        return known[str(value).lower()]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--workers", type=Counts(), default="0..16", show_default=True, metavar="LIST",
              help="Worker counts to try: 0..16, 0..16..4, 0,2,4.")
@click.option("--prefetch", type=Counts(1), default=(), metavar="LIST", help="Values of prefetch_factor to try.")
@click.option("--pin-memory", type=Flags(), default=(), metavar="yes|no|both", help="pin_memory to try.")
@click.option("--persistent", type=Flags(), default=(), metavar="yes|no|both", help="persistent_workers to try.")
@click.option("--batch-size", type=Counts(1, 10**6), default=(), metavar="LIST", help="Batch sizes to try.")
@click.option("--multiprocessing-context", type=click.Choice(["fork", "spawn", "forkserver"]), multiple=True,
              help="How workers are started; several may be given.")
@click.option("--in-order", type=Flags(), default=(), metavar="yes|no|both", help="in_order to try.")
@click.option("--images", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
              help="Bench the pictures of a folder, decoded and augmented as for ImageNet.")
@click.option("--budget", default=60.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=2),
              help="Time for measuring; less is used where the order is settled earlier.")
@click.option("--step-time", metavar="SECONDS|RUN",
              help="What a step takes without waiting, or a scan to take it from: the demand to meet.")
@click.option("--decoders/--no-decoders", default=True, show_default=True,
              help="Compare image decoders on files that the data set opens, where decoding takes time.")
@click.option("--wait", default=300.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=1),
              help="Give up if no loader is iterated by then.")
@click.option("--seed", type=int, help="Seed of the order of visits.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Where runs are kept [default: .perfdoc in the working directory].")
@click.option("--json", "as_json", is_flag=True, help="Print the answer and all rows as JSON.")
@click.argument("target", nargs=-1, type=click.UNPROCESSED)
def command(
    workers: tuple[int, ...], prefetch: tuple[int, ...], pin_memory: tuple[bool, ...], persistent: tuple[bool, ...],
    batch_size: tuple[int, ...], multiprocessing_context: tuple[str, ...], in_order: tuple[bool, ...], images: Path | None,
    decoders: bool, budget: float, step_time: str | None, wait: float, seed: int | None, output: Path | None, as_json: bool,
    target: tuple[str, ...],
) -> None:
    """Bench a DataLoader: `perfdoc bench-loader --workers 0..16 train.py`.

    TARGET is a script with its arguments, any command after `--`, or `module:callable` that returns a DataLoader. Without
    one: `loader` or `command` of [tool.perfdoc] in pyproject.toml, else the last scanned command, else a bundled folder of
    JPEGs. The script runs until its training loader is known; that loader, its data set, collate function and sampler, is
    then iterated alone under every setting. The answer is the smallest count within 3% of the best.
    """
    from perfdoc.capture.document import read_events
    from perfdoc.capture.event import last
    from perfdoc.capture.events import BenchFailed
    from perfdoc.capture.settings import BenchAsked
    from perfdoc.commands._progress import Progress
    from perfdoc.core.errors import PerfdocError
    from perfdoc.core.measurement import Measurement
    from perfdoc.core.typed_json import to_json
    from perfdoc.diagnosis.diagnose import diagnose
    from perfdoc.launch.scan import Options, Scan
    from perfdoc.loader_bench import answer as loader_answer
    from perfdoc.report import bench, html, terminal
    from perfdoc.report.model import build

    demand = _demand(step_time) if step_time else None
    chosen, said = _target(target, images, batch_size)
    if said:
        click.echo(f"perfdoc: {said}", err=True)
    others = {
        "prefetch": prefetch, "pin_memory": pin_memory, "persistent": persistent, "batch_size": batch_size,
        "context": multiprocessing_context, "in_order": in_order,
    }
    ours = chosen[1:3] == ["-m", "perfdoc.loader_bench.target"]
    asked = BenchAsked(
        workers=list(workers), others={name: list(values) for name, values in others.items()}, budget=budget,
        name=chosen[4] if ours else "", decoders=decoders,
    )
    options = Options(
        chosen, budget=budget, wait=wait, seed=seed, folder=output.absolute() if output else None, experiment=False,
        errand="perfdoc.loader_bench.task", bench=asked, loader_after=0.0 if ours else 5.0,
        errand_limit=2 * budget + 60,
    )
    scan = Scan(options, lambda event: None)
    with Progress(budget, sys.stderr) as progress:
        scan.show = progress.show
        capture = scan.run()
    if decoders:
        _compare_decoders(capture, scan.folder, budget / 2)
    if demand is not None:
        capture.measurements = [m for m in capture.measurements if m.metric != "loader.demand"]
        own = capture.loader.batch_size if capture.loader else None
        size = {"batch_size": own} if own else {}
        capture.measurements.append(Measurement("loader.demand", "1/s", (demand,), {"from": step_time or "", **size}))
        capture.write(scan.folder)
    answer = loader_answer.read(capture.measurements, capture.experiment.failed)
    failed = last(BenchFailed, read_events(scan.folder))
    if answer is None or answer.recommended is None:
        if capture.run.outcome in ("failed", "never trained"):
            terminal.show_failure(capture, scan.log, True)
        why = failed.error if failed else capture.run.reason or "no loader was iterated"
        raise PerfdocError(str(why).strip(), capture.run.exit_code or 3)
    if as_json:
        click.echo(json.dumps({**answer.to_json(), "loader": to_json(capture.loader)}, indent=1))
    else:
        click.echo(bench.render(capture, terminal.columns()))
        report = html.write(build(diagnose(capture)), scan.folder / "report.html")
        click.echo(f"report: {os.path.relpath(report)}")
    if capture.run.outcome in ("failed", "interrupted"):
        click.echo(f"perfdoc: {capture.run.reason}; above is what was measured before", err=True)
        sys.exit(capture.run.exit_code or 1)


DECODING = 0.1
"""Share of a sample's time that decoding must take for decoders to be compared."""


def _compare_decoders(capture: Capture, folder: Path, budget: float) -> None:
    """Add the comparison of decoders to the capture, where the data set was seen decoding pictures."""
    from perfdoc.capture.document import read_events
    from perfdoc.capture.event import first
    from perfdoc.capture.events import PicturesFound
    from perfdoc.core.measurement import Measurement
    from perfdoc.decoder_bench.bench import DecoderBench
    from perfdoc.loader_bench import samples as sample_answer
    from perfdoc.report import decoder_table

    pictures = first(PicturesFound, read_events(folder))
    anatomy = sample_answer.read(capture.measurements)
    if pictures is None or not pictures.paths or anatomy is None or anatomy.share("decode") < DECODING:
        return
    used = next((m for m in capture.measurements if isinstance(m, Measurement) and m.metric == "sample.used_pixels"), None)
    side = round(used.median**0.5) if used else 224
    python = capture.environment.executable or sys.executable

    def say(line: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)

    if not sys.stderr.isatty():
        click.echo(f"perfdoc: comparing decoders on {len(pictures.paths)} of the files...", err=True)
    bench = DecoderBench(
        python, folder, pictures.paths, side, math.floor(pictures.cores), budget, decoder_table.modules(), say)
    capture.measurements += bench.run()
    say("")
    capture.write(folder)


def _demand(text: str) -> float:
    """Batches a second that a step takes: from seconds, or from a scan."""
    from perfdoc.commands.report import find, load
    from perfdoc.core.errors import PerfdocError
    from perfdoc.loader_bench.demand import demand_of

    try:
        seconds = float(text)
    except ValueError:
        found = demand_of(load(find(Path(text))))
        if found is None:
            raise PerfdocError(f"{text} is a run without a step that fetches batches: say the seconds a step takes.") from None
        return found
    if not seconds > 0:
        raise PerfdocError(f"--step-time {text}: a step takes more than 0 seconds.")
    return 1 / seconds


def _target(target: tuple[str, ...], images: Path | None, batch_size: tuple[int, ...]) -> tuple[list[str], str]:
    """The command that iterates the loader, and, where it was not named, a line that says what was taken."""
    from perfdoc.core.errors import PerfdocError
    from perfdoc.launch.environment import python_command, resolve

    driver = ["-m", "perfdoc.loader_bench.target"]
    if images is not None:
        if target:
            raise PerfdocError("say either --images or a target, not both.")
        return python_command([*driver, "images", str(images), str(batch_size[0] if batch_size else 32)]), ""
    if target:
        before = sys.argv[1:]
        dashed = "--" in before and list(target) == before[before.index("--") + 1 :]
        if not dashed and len(target) == 1 and re.fullmatch(r"[\w.]+:[\w.]+", target[0]):
            return python_command([*driver, "loader", target[0]]), ""
        return resolve(target, dashed), ""
    configured = _configured()
    if configured is not None:
        return configured
    last = _last_scanned()
    if last is not None:
        return last, f"no target: benching the loader of the last scanned command, {shlex.join(last)}"
    folder = _bundled()
    return (python_command([*driver, "images", str(folder), "32"]),
            f"no target, no [tool.perfdoc], nothing scanned here: benching the bundled workload, {folder}")


def _configured() -> tuple[list[str], str] | None:
    """``loader`` or ``command`` of ``[tool.perfdoc]``."""
    from perfdoc.core.errors import PerfdocError
    from perfdoc.launch.environment import python_command, resolve

    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef,import-not-found]
    file = Path("pyproject.toml")
    if not file.exists():
        return None
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("perfdoc", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PerfdocError(f"pyproject.toml cannot be read: {error}") from None
    if "loader" in found:
        return (python_command(["-m", "perfdoc.loader_bench.target", "loader", str(found["loader"])]),
                f"benching {found['loader']} ([tool.perfdoc] in pyproject.toml)")
    if "command" in found:
        try:
            words = shlex.split(found["command"]) if isinstance(found["command"], str) else [str(w) for w in found["command"]]
        except ValueError as error:
            raise PerfdocError(f"[tool.perfdoc] command in pyproject.toml cannot be read: {error}") from None
        return resolve(words, not words[:1] or not words[0].endswith(".py")), (
            f"benching the loader of {shlex.join(words)} ([tool.perfdoc] in pyproject.toml)")
    return None


def _last_scanned() -> list[str] | None:
    """The command of the newest run here that got as far as a loop."""
    from perfdoc.capture import document as captures
    from perfdoc.core.errors import PerfdocError

    for file in sorted(Path(".perfdoc/runs").glob(f"*/{captures.FILE_NAME}"), reverse=True):
        try:
            found = captures.read(file)
        except PerfdocError:
            continue
        if found.loop and found.loop.loaders and found.run.command:
            return found.run.command
    return None


def _bundled() -> Path:
    """The demo's JPEGs, made where they are not there yet."""
    from perfdoc import demo
    from perfdoc.core.errors import PerfdocError
    from perfdoc.launch.environment import python_command

    folder = Path("perfdoc-demo") / "images"
    if not folder.is_dir():
        source = Path(demo.__file__).parent / "make_images.py"
        made = subprocess.run([*python_command([str(source)]), str(folder)], capture_output=True, text=True, check=False)
        if made.returncode:
            last = made.stderr.strip().splitlines()[-1:] or ["no output"]
            raise PerfdocError(f"the bundled images could not be made: {last[0]}. Try: pip install 'perfdoc[demo]'", 1)
    return folder
