"""What the workloads share: options that make the hand-made changes, and the time of a step in steady state."""

import argparse
import time

import torch

WARM_SECONDS = 3.0


def arguments(*names):
    """Options of a workload; the changes are off by default: that is the original script."""
    parser = argparse.ArgumentParser()
    for name in names:
        parser.add_argument(name)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--matmul-precision", default="highest")
    parser.add_argument("--optimizer", choices=["foreach", "fused"])
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_float32_matmul_precision(args.matmul_precision)
    args.implementation = {args.optimizer: True} if args.optimizer else {}
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def on_cpu(model, args):
    """The model in the memory format that was asked for, compiled if that was."""
    model = model.to(memory_format=torch.channels_last) if args.channels_last else model
    return torch.compile(model) if args.compile else model


class run_for:
    """Counts steps after a warm-up, for ``seconds``."""

    def __init__(self, seconds):
        self.begin = time.perf_counter()
        self.seconds = seconds
        self.counted_from = None
        self.steps = 0

    def running(self):
        return time.perf_counter() - self.begin < self.seconds + WARM_SECONDS

    def step(self):
        now = time.perf_counter()
        if self.counted_from is None:
            if now - self.begin > WARM_SECONDS:
                self.counted_from = now
        else:
            self.steps += 1
            self.end = now
        return self.running()


def finish(clock):
    """Print seconds a step, for the benchmark to read."""
    print("seconds_a_step", (clock.end - clock.counted_from) / clock.steps)
