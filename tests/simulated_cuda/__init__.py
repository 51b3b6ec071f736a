"""Builds a CUDA device that is not there, for tests of what only happens on one.

torch's own dispatcher, caching allocator, streams, events and pinned memory run on it; kernels compute nothing, so numbers
are garbage and nothing is ever faster. It shows that collectors collect, that waits are found, that memory runs out, and that
treatments are applied and undone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FAMILIES = re.compile(
    r"^(cuda[A-Z]|cu[A-Z]|cublas|cudnn|cusparse|cusolver|cufft|curand|__cuda(GetKernel|InitModule|LaunchKernel))"
)
"""Functions of NVIDIA's libraries."""
REAL = re.compile(
    r"^(cudaGetErrorName|cudaGetErrorString|cudaRuntimeGetVersion|cudnnGet(Version|CudartVersion|ErrorString|LastErrorString"
    r"|Property)|cublasLtGetVersion|cublasGetVersion|cublasGetStatus|cusparseGet(Version|ErrorString)|cusparseGetErrorName)"
)
"""Those that need no device and are left to the real libraries."""


def why_not() -> str:
    """Why it cannot be built here; empty where it can."""
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        return "needs gcc and nm"
    if _headers() is None:
        return "needs the headers that come with torch's CUDA packages"
    if torch.cuda.is_available():
        return "there is a real device"
    return ""


def _headers() -> list[Path] | None:
    import torch

    site = Path(torch.__file__).parent.parent
    runtime = next(iter(sorted(site.glob("nvidia/cu*/include/cuda_runtime_api.h"))), None)
    places = [runtime.parent if runtime else site, site / "nvidia/cudnn/include", site / "triton/backends/nvidia/include"]
    needed = ("cuda_runtime_api.h", "cudnn_backend.h", "crt/host_defines.h")  # the last one comes with Triton alone
    return places if all(any((place / name).exists() for place in places) for name in needed) else None


def build(folder: Path) -> dict[str, str]:
    """Build it into ``folder``; the environment under which a process sees the device."""
    headers = _headers()
    assert headers is not None
    include = [f"-I{place}" for place in headers]
    objects = []
    for source in ("device", "libraries"):
        objects.append(folder / f"{source}.o")
        _run("gcc", "-c", "-O1", "-fPIC", "-w", *include, HERE / f"{source}.c", "-o", objects[-1])
    ours = {line.split()[-1] for line in _run("nm", *objects).splitlines() if " T " in line}
    stubs = folder / "stubs.c"
    stubs.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(_wanted() - ours)))
    _run("gcc", "-c", "-O1", "-fPIC", "-w", stubs, "-o", folder / "stubs.o")
    library = folder / "libsimulatedcuda.so"
    _run("gcc", "-shared", "-o", library, *objects, folder / "stubs.o", "-lpthread")
    os.symlink(library.name, folder / "libcuda.so.1")
    return {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(folder)}


def _wanted() -> set[str]:
    """What torch's CUDA libraries call of NVIDIA's."""
    import torch

    found = set()
    for library in (Path(torch.__file__).parent / "lib").glob("lib*cuda*.so"):
        for line in _run("nm", "-D", "--undefined-only", library).splitlines():
            name = line.split()[-1].split("@")[0]
            if FAMILIES.match(name) and not REAL.match(name):
                found.add(name)
    return found


def _run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
