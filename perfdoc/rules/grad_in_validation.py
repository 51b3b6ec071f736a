"""PD309: validation keeps what backward would need."""

from __future__ import annotations

import math

from perfdoc.core import stats
from perfdoc.core.finding import Effect, Finding, Verdict
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule


class GradInValidation(Rule):
    """A model in eval mode that is called with gradients enabled.

    What it measures
    ----------------
    A forward pass that your script made in eval mode is repeated with the same arguments: with gradients, under
    ``torch.no_grad()`` and under ``torch.inference_mode()``, in alternating order. The effect is that on this forward pass
    alone; training steps do not change. Validation that only runs at the end of the epoch is not seen, because a scan does
    not get there.

    Why it costs time
    -----------------
    With gradients enabled, every operator records what its backward needs and keeps its inputs in memory, which validation
    could use for larger batches. Inference mode also skips the bookkeeping of versions and views.

    Example
    -------
    ::

        model.eval()
        predictions = model(x)
        model.train()

    Use instead
    -----------
    ::

        model.eval()
        with torch.inference_mode():
            predictions = model(x)
        model.train()

    When this is wrong
    ------------------
    If validation itself needs gradients (adversarial examples, physics losses). Tensors made under ``inference_mode`` cannot
    be used in a later backward; ``no_grad`` has no such limit and saves nearly as much.
    """

    code = "PD309"
    slug = "grad-in-validation"
    needs = ("validation.seconds",)
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where the script validates with gradients."""
        times = {str(m.conditions["mode"]): m for m in seen.measurements("validation.seconds")}
        if len(times) < 3 or times["gradients"].conditions.get("script") != "gradients":
            return None
        logs = {
            mode: [math.log(a / b) for a, b in zip(times["gradients"].samples, times[mode].samples, strict=True)]
            for mode in ("no_grad", "inference_mode")
        }
        shown = {mode: stats.interval(values) for mode, values in logs.items() if len(values) >= 2}
        if len(shown) < 2:
            return None
        best = shown["inference_mode"]
        effects = {mode: Effect(*found.speedup, found.pairs, "measured in isolation") for mode, found in shown.items()}
        effect = effects["inference_mode"]
        verdict: Verdict = "undecided"
        if seen.withheld:
            verdict = "withheld"
        elif effect.low > 1 and effect.speedup > 1 + seen.asked_effect:
            verdict = "helps"
        elif max(abs(best.low), abs(best.high)) < seen.asked_effect:
            verdict = "no difference"
        evidence = [f"under {mode}: {found.words}, {found.pairs} pairs in isolation" for mode, found in effects.items()]
        how = f"is {effect.speedup:.2f}x as fast" if effect.known else f"may be faster, by how much is {effect.words}"
        title = f"validation runs with gradients: under inference_mode its forward pass {how}"
        return Finding(
            self.code, self.slug, title, str(times["gradients"].conditions.get("site", "")), verdict,
            "with torch.inference_mode(): around validation", tuple(evidence), effect, self.effort,
        )
