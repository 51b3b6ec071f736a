"""Experiment trackers write into the run's folder, or nothing, whatever the script tells them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

TENSORBOARD = """
class SummaryWriter:
    def __init__(self, log_dir=None, comment="", *, logdir=None, flush_secs=1):
        self.log_dir, self.comment, self.flush_secs = log_dir, comment, flush_secs
"""
MODULES = {
    "tensorboardX/__init__.py": "",
    "tensorboardX/writer.py": TENSORBOARD,
    "mlflow.py": """
uri = "https://tracking.example"
def set_tracking_uri(to):
    global uri
    uri = to
""",
    "wandb.py": "def init(project=None, mode='online', **more): return {'project': project, 'mode': mode, **more}",
}
"""The trackers as far as a script sees them."""


def run(folder: Path, script: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the script printed as JSON, and the events that were written, with the trackers' modules beside it."""
    for name, text in MODULES.items():
        file = folder / "modules" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "run").mkdir()
    code = (
        f"import json, sys\nsys.path.insert(0, {str(folder / 'modules')!r})\n"
        "from perfdoc.inject.guard import trackers\nfrom perfdoc.inject.system.recorder import Recorder\n"
        f"trackers.install(Recorder({str(folder / 'run')!r}, 0))\n{textwrap.dedent(script)}"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=folder)
    events = [json.loads(line) for file in (folder / "run").glob("events-*.jsonl") for line in file.read_text().splitlines()]
    return json.loads(done.stdout), events


def test_tensorboard_writes_into_the_runs_folder(tmp_path: Path) -> None:
    """However the folder is given; all other arguments are the user's."""
    said, events = run(tmp_path, """
        from tensorboardX.writer import SummaryWriter
        writers = [SummaryWriter("mine"), SummaryWriter(log_dir="mine"), SummaryWriter(logdir="mine"),
                   SummaryWriter("mine", "a comment", flush_secs=9)]
        print(json.dumps({"folders": [w.log_dir for w in writers], "last": [writers[-1].comment, writers[-1].flush_secs]}))
    """)
    assert set(said["folders"]) == {str(tmp_path / "run" / "trackers" / "tensorboard")}
    assert said["last"] == ["a comment", 9]
    assert [(event["name"], event["to"]) for event in events] == [("tensorboard", "trackers/tensorboard")] * 4
    assert not (tmp_path / "mine").exists()


def test_mlflow_keeps_to_the_runs_folder(tmp_path: Path) -> None:
    """A server that the script names later is not gone to, but told."""
    said, events = run(tmp_path, """
        import mlflow
        first = mlflow.uri
        mlflow.set_tracking_uri("https://other.example")
        print(json.dumps({"first": first, "then": mlflow.uri}))
    """)
    assert said["first"] == said["then"] == f"file://{tmp_path / 'run' / 'trackers' / 'mlflow'}"
    assert [(event["name"], event["to"]) for event in events] == [("mlflow", "trackers/mlflow")]


def test_wandb_is_off(tmp_path: Path) -> None:
    """Also where the script asks for it to be online; the project stays the script's."""
    said, events = run(tmp_path, """
        import wandb
        print(json.dumps(wandb.init(project="mine", mode="online", tags=["a"])))
    """)
    assert said == {"project": "mine", "mode": "disabled", "tags": ["a"]}
    assert [(event["name"], event["to"]) for event in events] == [("wandb", "off")]


def test_a_script_without_trackers_imports_none(tmp_path: Path) -> None:
    """They are waited for, not looked for."""
    said, events = run(tmp_path, 'print(json.dumps(sorted({"wandb", "mlflow", "tensorboardX", "torch"} & set(sys.modules))))')
    assert said == []
    assert events == []
