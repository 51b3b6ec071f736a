"""Makes the demo's data set: a folder of JPEG photographs' stand-ins, in class folders. Needs Pillow."""

from __future__ import annotations

import random
import sys
from pathlib import Path


def make(folder: Path, classes: int = 4, each: int = 40, size: tuple[int, int] = (640, 480)) -> None:
    """Write ``classes * each`` JPEGs of ``size`` pixels: smooth shapes with fine grain, which decode like photographs."""
    from PIL import Image, ImageChops

    rng = random.Random(0)
    width, height = size
    grain = Image.effect_noise(size, 24).convert("RGB")
    for label in range(classes):
        place = folder / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            coarse = Image.new("RGB", (8, 6))
            coarse.putdata([(rng.randrange(256), rng.randrange(256), rng.randrange(60 * label, 256)) for _ in range(48)])
            image = ImageChops.add(coarse.resize((width, height), Image.Resampling.BICUBIC), grain, 1.6)
            image.save(place / f"{number:03d}.jpg", quality=88)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
