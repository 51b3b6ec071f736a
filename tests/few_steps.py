"""Runs training scripts for a few batches each, as ``benchmarks/counted.py`` runs them, and prints what came of them.

    python tests/few_steps.py BATCHES SCRIPT ...

Each script runs in a fork of this process, which has imported torch, in an empty folder and with the option ``--small``.
Printed is one JSON object a script: its path, the exit code, how many batches were counted, and the sum of all the parameters
that the optimizer holds after each of them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

COUNTED = Path(__file__).parent.parent / "benchmarks" / "counted.py"


def child(script: str, most: int, folder: str) -> None:
    """In the fork: one script, until it has had its batches."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    spec = importlib.util.spec_from_file_location("counted", COUNTED)
    assert spec is not None
    assert spec.loader is not None
    counted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(counted)
    sums = Path(folder, "sums").open("a")  # noqa: SIM115

    def stepped(optimizer: Any, args: Any, kwargs: Any) -> None:
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        print(sum(parameter.detach().double().sum().item() for parameter in held), file=sums, flush=True)

    register_optimizer_step_post_hook(stepped)
    os.chdir(Path(folder, "work"))
    sys.argv = ["counted.py", str(Path(folder, "times")), str(most), script, "--small"]
    counted.main()


def run(script: str, most: int) -> dict[str, Any]:
    """One script in a fork."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "work").mkdir()
        log = Path(folder, "log")
        pid = os.fork()
        if not pid:
            code = 1
            try:
                with log.open("w") as out:
                    os.dup2(out.fileno(), 1)
                    os.dup2(out.fileno(), 2)
                child(script, most, folder)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:  # a forked child must never go on as the test: whatever it was is in its log, its code is 1
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        sums, times = Path(folder, "sums"), Path(folder, "times")
        return {
            "script": script, "code": os.waitstatus_to_exitcode(status), "said": log.read_text()[-3000:],
            "batches": times.stat().st_size // 8 if times.exists() else 0,
            "sums": [float(line) for line in sums.read_text().split()] if sums.exists() else [],
        }


if __name__ == "__main__":
    import torch
    import torch._dynamo  # the first optimizer would import it, in every fork

    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        print(json.dumps(run(name, int(sys.argv[1]))), flush=True)
