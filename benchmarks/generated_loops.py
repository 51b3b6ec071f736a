"""Do scans find the step of loops that nobody wrote, end by themselves, and give everything back?

    python benchmarks/generated_loops.py                      fifty loops (about a quarter of an hour)
    python benchmarks/generated_loops.py --seeds 17 23        those of two seeds, with what is wrong

``tests/loop_grammar.py`` writes them: style x loader x optimizer x accumulation x carried state x exceptions x files. Of every
scan it is looked at: whether it ended by itself with exit code 0 and blamed nobody, whether the step is what it is, whether
torch's settings, modules, optimizers and loaders are as they were before the loop, the user's folder, and what still runs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import fields
from pathlib import Path

from harm import Trial
from tabulate import tabulate

from perfdoc.capture import document as captures

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from loop_grammar import Loop, complaints


def scanned(seed: int, budget: float, limit: float, keep: bool) -> tuple[Loop, Trial]:
    """The scan of one loop, and all that is wrong with it."""
    loop = Loop.drawn(seed)
    trial = Trial(Path(tempfile.mkdtemp(prefix=f"perfdoc-loop-{seed}-")), random.Random(seed), budget, limit)
    trial.write(loop.script())
    scan = trial.start("--only", loop.treatments)
    trial.wait()
    trial.look()
    if scan.run is not None and (scan.run / captures.FILE_NAME).exists():
        log = (scan.run / "output.log").read_text(errors="replace")
        capture = captures.read(scan.run).to_json()
        trial.complaints += complaints(loop, scan.process.returncode, scan.out + scan.err, capture, log)
    else:
        trial.complaints.append("no capture was written")
    if not (keep and trial.complaints):
        shutil.rmtree(trial.folder, ignore_errors=True)
    return loop, trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", help="these loops only")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds of each scan")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds after which a scan is taken to hang")
    parser.add_argument("--keep", action="store_true", help="keep the folders of loops with something wrong")
    args = parser.parse_args()
    every, wrong, told, seconds = Counter[str](), Counter[str](), [], []
    for seed in args.seeds or range(args.first, args.first + args.count):
        loop, trial = scanned(seed, args.budget, args.limit, args.keep)
        seconds.append(trial.seconds)
        choices = [f"{field.name} {getattr(loop, field.name)}" for field in fields(Loop) if field.name != "seed"]
        every.update(choices)
        if trial.complaints:
            wrong.update(choices)
            told.append(f"{loop}\n    " + "\n    ".join(trial.complaints) + (f"\n    {trial.folder}" if args.keep else ""))
        print(f"{loop}: {'; '.join(trial.complaints) or 'as wanted'}, {trial.seconds:.0f} s", file=sys.stderr, flush=True)
    rows = [(choice, count, wrong[choice]) for choice, count in sorted(every.items())]
    print(tabulate(rows, headers=["loops with", "scanned", "something wrong"]))
    print(f"\n{len(seconds)} loops, {len(seconds) - len(told)} as wanted; the longest scan took {max(seconds):.0f} s")
    print("".join(f"\n{line}" for line in told))


if __name__ == "__main__":
    main()
