"""Batches of a DALI pipeline that does what the recognised transforms of an image folder do, on the CPU.

Random numbers and resampling are DALI's own: the same augmentation, not the same pictures. Sources of the mapping: the
documentation of ``nvidia.dali.fn`` (``decoders.image_random_crop``, ``resize``, ``crop_mirror_normalize``, ``color_twist``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PREFETCHED = 2
"""Batches that the pipeline makes ahead: DALI's default queue depth."""


@dataclass
class Recipe:
    """What a composition does, in DALI's terms; sizes are (height, width) in pixels."""

    random_area: tuple[float, float] | None = None
    random_ratio: tuple[float, float] | None = None
    size: tuple[int, int] | None = None
    shorter: int | None = None
    crop: tuple[int, int] | None = None
    mirror: float = 0.0
    upside_down: float = 0.0
    jitter: dict[str, tuple[float, float]] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


def recipe_of(transforms: Sequence[Any]) -> Recipe:
    """The recipe of a list of torchvision transforms. Raises ValueError with the first that has no counterpart or place."""
    recipe, to_tensor = Recipe(), False
    for transform in transforms:
        name = type(transform).__name__
        if name == "Compose":
            raise ValueError("nested compositions are not recognised")
        if name in ("ToImage", "PILToTensor"):
            continue
        if name in ("ToTensor", "ToDtype", "ConvertImageDtype"):
            if name == "ToDtype" and not getattr(transform, "scale", False):
                raise ValueError("ToDtype without scale=True")
            to_tensor = True
        elif name == "Normalize":
            recipe.mean, recipe.std = tuple(transform.mean), tuple(transform.std)
        elif to_tensor:
            raise ValueError(f"{name} after the conversion to tensors")
        else:
            _geometry(recipe, name, transform)
    if not to_tensor or (recipe.size is None and recipe.crop is None):
        raise ValueError("pictures of one size as float tensors are needed to make batches")
    return recipe


def _geometry(recipe: Recipe, name: str, transform: Any) -> None:
    started = recipe.size is not None or recipe.shorter is not None or recipe.crop is not None
    if name == "RandomResizedCrop" and not started:
        recipe.size, recipe.random_area = _pair(transform.size), tuple(transform.scale)
        recipe.random_ratio = tuple(transform.ratio)
    elif name == "Resize" and not started:
        size = transform.size
        if isinstance(size, int) or len(size) == 1:
            recipe.shorter = size if isinstance(size, int) else size[0]
        else:
            recipe.size = _pair(size)
    elif name == "CenterCrop":
        recipe.crop = _pair(transform.size)
    elif name == "RandomHorizontalFlip":
        recipe.mirror = transform.p
    elif name == "RandomVerticalFlip":
        recipe.upside_down = transform.p
    elif name == "ColorJitter":
        for part in ("brightness", "contrast", "saturation", "hue"):
            value = getattr(transform, part)
            if value is not None:
                recipe.jitter[part] = (float(value[0]), float(value[1]))
    else:
        raise ValueError(f"{name} has no counterpart here")


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[0])) if len(size) == 1 else (int(size[0]), int(size[1]))


class DaliSource:
    """Endless batches ``[pictures (N, 3, height, width) float32, labels (N,) int64]`` of labelled files.

    ``samples``: (path, label). Raises ImportError without DALI.
    """

    def __init__(
        self, samples: Sequence[tuple[str, int]], recipe: Recipe, batch_size: int, threads: int, shuffle: bool
    ) -> None:
        import torch
        from nvidia.dali import fn, pipeline_def, types

        self._torch = torch
        files, labels = [path for path, _ in samples], [label for _, label in samples]

        @pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=batch_size, num_threads=threads, device_id=None, prefetch_queue_depth=PREFETCHED
        )
        def batches() -> Any:
            encoded, label = fn.readers.file(
                files=files, labels=labels, random_shuffle=shuffle, pad_last_batch=False, name="files"
            )
            if recipe.random_area is not None:
                pictures = fn.decoders.image_random_crop(
                    encoded, device="cpu", output_type=types.RGB, random_area=list(recipe.random_area),
                    random_aspect_ratio=list(recipe.random_ratio or (0.75, 1.33)),
                )
            else:
                pictures = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
            if recipe.size is not None:
                pictures = fn.resize(pictures, resize_y=recipe.size[0], resize_x=recipe.size[1], antialias=True)
            elif recipe.shorter is not None:
                pictures = fn.resize(pictures, resize_shorter=recipe.shorter, antialias=True)
            if recipe.jitter:
                twist = {
                    part: fn.random.uniform(range=[low * 360, high * 360] if part == "hue" else [low, high])
                    for part, (low, high) in recipe.jitter.items()
                }
                pictures = fn.color_twist(pictures, **twist)
            if recipe.upside_down:
                pictures = fn.flip(pictures, horizontal=0, vertical=fn.random.coin_flip(probability=recipe.upside_down))
            # torchvision cuts half pixels off, DALI rounds them up unless it is told to.
            crop: dict[str, Any] = {"crop": recipe.crop, "rounding": "truncate"} if recipe.crop is not None else {}
            pictures = fn.crop_mirror_normalize(
                pictures, dtype=types.FLOAT, output_layout="CHW", mean=[255 * value for value in recipe.mean],
                std=[255 * value for value in recipe.std],
                mirror=fn.random.coin_flip(probability=recipe.mirror) if recipe.mirror else 0, **crop,
            )
            return pictures, label

        self._pipeline = batches()
        self._pipeline.build()
        self.fresh = True

    def next(self) -> list[Any]:
        """The next batch, in memory of its own."""
        pictures, labels = self._pipeline.run()
        torch = self._torch
        return [torch.from_numpy(pictures.as_array().copy()),
                torch.from_numpy(labels.as_array().reshape(-1).astype("int64"))]

    def drain(self) -> int:
        """Throw away what was made ahead."""
        if self.fresh:
            self.fresh = False
            return 0
        for _ in range(PREFETCHED):
            self.next()
        return PREFETCHED

    def close(self) -> None:
        """End its threads."""
        self._pipeline = None
