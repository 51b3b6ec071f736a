"""Which decoder is fastest on a folder of pictures, alone and in workers, and with what pixels.

    python benchmarks/decoders.py FOLDER --budget 90

With --by-hand every decoder is also run in a plain loop of this script's own, to check the order.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from pathlib import Path

from perfdoc.decoder_bench import answer as decoder_answer
from perfdoc.decoder_bench.bench import DecoderBench
from perfdoc.report import decoder_table

BY_HAND = {
    "pil": "from PIL import Image; import io; f = lambda b: Image.open(io.BytesIO(b)).convert('RGB').load()",
    "cv2": "import cv2, numpy; cv2.setNumThreads(0); "
           "f = lambda b: cv2.cvtColor(cv2.imdecode(numpy.frombuffer(b, numpy.uint8), 1), cv2.COLOR_BGR2RGB)",
    "turbojpeg": "import turbojpeg; t = turbojpeg.TurboJPEG(); f = lambda b: t.decode(b, 0)",
    "simplejpeg": "import simplejpeg; f = simplejpeg.decode_jpeg",
    "torchvision": "import torch, torchvision; torch.set_num_threads(1); "
                   "f = lambda b: torchvision.io.decode_image(torch.frombuffer(bytearray(b), dtype=torch.uint8), mode='RGB')",
}
LOOP = """
import sys, time, glob, os
{prepare}
data = [open(p, "rb").read() for p in sorted(glob.glob(os.path.join(sys.argv[1], "*.*p*g"), recursive=False) or
        glob.glob(os.path.join(sys.argv[1], "*.JPEG")))]
for b in data: f(b)
start = time.perf_counter()
for _ in range({passes}):
    for b in data: f(b)
print((time.perf_counter() - start) / {passes} / len(data))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", type=float, default=90.0)
    parser.add_argument("--by-hand", action="store_true")
    args = parser.parse_args()
    files = sorted(f.name for f in args.folder.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    bench = DecoderBench(sys.executable, args.folder, files, 224, 2, args.budget, decoder_table.modules())
    answer = decoder_answer.read(bench.run())
    assert answer is not None
    print(decoder_table.render(answer))
    if args.by_hand:
        rounds = []
        for _ in range(3):
            row = {}
            for name in random.sample(list(BY_HAND), len(BY_HAND)):
                code = LOOP.format(prepare=BY_HAND[name], passes=3)
                ran = subprocess.run([sys.executable, "-c", code, str(args.folder)], capture_output=True, text=True, check=True)
                row[name] = float(ran.stdout)
            rounds.append(row)
        print("\nby hand, ms a file, median of 3:")
        for name in BY_HAND:
            print(f"  {name:12} {sorted(row[name] for row in rounds)[1] * 1e3:.2f}")


if __name__ == "__main__":
    main()
