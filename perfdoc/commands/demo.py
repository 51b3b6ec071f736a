"""``perfdoc demo``: scan the bundled workload."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click


@click.command()
@click.option("--budget", default=120.0, show_default=True, metavar="SECONDS", type=click.FloatRange(min=5),
              help="Time for measuring.")
@click.option("--folder", default=Path("perfdoc-demo"), show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="Where the images, the script and its runs go.")
@click.pass_context
def command(ctx: click.Context, budget: float, folder: Path) -> None:
    """Scan a bundled workload: 160 JPEGs, torchvision's MobileNetV3, PIL, no workers.

    Needs torch, torchvision and Pillow in the environment (pip install "perfdoc[demo]").
    """
    import os

    from perfdoc import demo
    from perfdoc.commands.scan import command as scan
    from perfdoc.core.errors import PerfdocError
    from perfdoc.launch.environment import python_command

    source = Path(demo.__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    # A copy beside its data, so that it is what a user's script is: a file in their own folder.
    (folder / "train.py").write_bytes((source / "train.py").read_bytes())
    if not (folder / "images").is_dir():
        click.echo("perfdoc: making 160 JPEGs...", err=True)
        made = subprocess.run([*python_command([str(source / "make_images.py")]), str(folder / "images")],
                              capture_output=True, text=True, check=False)
        if made.returncode:
            last = made.stderr.strip().splitlines()[-1:] or ["no output"]
            raise PerfdocError(f"the demo's images could not be made: {last[0]}. Try: pip install 'perfdoc[demo]'", 1)
    os.chdir(folder)
    sys.argv = ["perfdoc", "scan"]
    ctx.invoke(scan, budget=budget, command=("train.py", "images"))
