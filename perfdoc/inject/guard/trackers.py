"""Experiment trackers are off or write into the run's folder while a scan runs.

The environment variables are set by the parent; what scripts set in code over them is handled here, when the tracker's
module is imported.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any

from perfdoc.inject.system.import_hooks import when_imported
from perfdoc.inject.system.recorder import Recorder


def install(recorder: Recorder) -> None:
    """Wait for the trackers' modules."""
    folder = os.path.join(recorder.run_dir, "trackers")

    def note(name: str, to: str) -> None:
        recorder.write("tracker", name=name, to=to)

    def tensorboard(module: ModuleType) -> None:
        writer: Any = module.SummaryWriter
        init = writer.__init__

        @functools.wraps(init)
        def redirected(self: Any, log_dir: Any = None, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("logdir", None)
            note("tensorboard", "trackers/tensorboard")
            init(self, os.path.join(folder, "tensorboard"), *args, **kwargs)

        writer.__init__ = redirected

    def mlflow(module: ModuleType) -> None:
        uri = "file://" + os.path.join(folder, "mlflow")

        def set_tracking_uri(*args: Any, **kwargs: Any) -> None:
            note("mlflow", "trackers/mlflow")

        module.set_tracking_uri(uri)
        module.set_tracking_uri = set_tracking_uri  # type: ignore[attr-defined]

    def wandb(module: ModuleType) -> None:
        init = module.init

        @functools.wraps(init)
        def disabled(*args: Any, **kwargs: Any) -> Any:
            note("wandb", "off")
            return init(*args, **{**kwargs, "mode": "disabled"})

        module.init = disabled  # type: ignore[attr-defined]

    when_imported("torch.utils.tensorboard.writer", tensorboard)
    when_imported("tensorboardX.writer", tensorboard)
    when_imported("mlflow", mlflow)
    when_imported("wandb", wandb)
