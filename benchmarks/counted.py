"""Runs a training script as it stands, and writes down when each of its batches was done.

    python benchmarks/counted.py TIMES STEPS train.py [options of the script]

TIMES is a file to which the time (``time.monotonic``, 8 bytes) of each batch is added. After STEPS batches the script is left
as ``sys.exit()`` would leave it; 0 means never. What is counted is the steps of the optimizer that steps first: a script with
two of them trains one batch with both.
"""

from __future__ import annotations

import os
import runpy
import struct
import sys
import time
from typing import Any


def main() -> None:
    times, most, script = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    from torch.optim.optimizer import register_optimizer_step_post_hook

    file = os.open(times, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    seen: list[Any] = []

    def stepped(optimizer: Any, args: Any, kwargs: Any) -> None:
        if not seen:
            seen.append(optimizer)
        if optimizer is seen[0]:
            os.write(file, struct.pack("d", time.monotonic()))
            seen.append(None)
            if len(seen) > most > 0:
                raise SystemExit

    register_optimizer_step_post_hook(stepped)
    sys.argv = sys.argv[3:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
