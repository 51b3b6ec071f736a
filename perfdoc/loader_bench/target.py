"""Iterates a loader that no script iterates, so that it can be caught: run as ``python -m perfdoc.loader_bench.target``.

``loader module:callable`` iterates what the callable returns; ``images FOLDER BATCH`` the pictures of a folder, decoded and
augmented as ImageNet training does it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


def loader_of(name: str) -> Any:
    """The DataLoader that ``module:callable`` returns, or is. Exits with one line where there is none."""
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            sys.exit(f"no module is called {module_name!r} (looked in {os.getcwd()} and the environment)")
        raise
    for part in attribute.split("."):
        if not hasattr(found, part):
            sys.exit(f"{module_name} has no {attribute!r}")
        found = getattr(found, part)

    from torch.utils.data import DataLoader

    if not isinstance(found, DataLoader) and callable(found):
        found = found()
    if not isinstance(found, DataLoader):
        sys.exit(f"{name} gives {type(found).__name__}, not a torch.utils.data.DataLoader")
    return found


def pictures(folder: str, batch_size: int) -> Any:
    """A loader of all pictures below ``folder``: random crop to 224 pixels, flip, to tensor, normalised."""
    paths = sorted(
        os.path.join(place, name) for place, _, names in os.walk(folder) for name in names
        if name.lower().endswith(PICTURES)
    )
    if not paths:
        sys.exit(f"no pictures below {folder} (looked for {', '.join(PICTURES)})")

    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    transform = transforms.Compose([
        transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])

    class Pictures(Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            with Image.open(paths[index]) as image:
                return transform(image.convert("RGB"))

    return DataLoader(Pictures(), batch_size=batch_size, shuffle=True)


def main() -> None:
    """Iterate until perfdoc ends the process."""
    kind, name, *rest = sys.argv[1:]
    loader = pictures(name, int(rest[0])) if kind == "images" else loader_of(name)
    for _ in range(2):
        for _ in loader:
            pass
    sys.exit("the loader came to its end without a batch")


if __name__ == "__main__":
    main()
