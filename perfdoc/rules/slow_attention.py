"""PD314: attention is written by hand."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class SlowAttention(TreatmentRule):
    """Attention written by hand, although ``scaled_dot_product_attention`` computes the same.

    What it measures
    ----------------
    Your step with attention computed by the fused call, switched on and off in your running loop without an edit. A stand-in
    for the product of queries and keys passes through your own code; when it is multiplied by the values, everything is
    computed in one call. Only what is the same algebra is replaced (scale, mask, softmax over the last dimension, dropout).
    The report names the lines that were replaced.

    Why it costs time
    -----------------
    In code written by hand, the scores of all pairs of positions are written to memory and read back for the scale, the mask,
    the softmax, the dropout and the product, and are kept for backward. The fused call works through them in blocks that fit
    into caches, and keeps none of them.

    Example
    -------
    ::

        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.qkv = nn.Linear(8, 24)

            def forward(self, x):
                q, k, v = self.qkv(x.flatten(2).mean(1, keepdim=True)[..., :8]).chunk(3, -1)
                return torch.softmax(q @ k.transpose(-2, -1) / 8 ** 0.5, -1) @ v

        model = Attention()

    Use instead
    -----------
    ::

        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.qkv = nn.Linear(8, 24)

            def forward(self, x):
                q, k, v = self.qkv(x.flatten(2).mean(1, keepdim=True)[..., :8]).chunk(3, -1)
                return F.scaled_dot_product_attention(q, k, v)

        model = Attention()

    When this is wrong
    ------------------
    If the attention weights themselves are used (plotted, regularised). For short sequences the fused call may bring nothing.
    A causal mask is measured as an ordinary mask; with ``is_causal=True`` it may be faster than what was measured.
    """

    code = "PD314"
    slug = "slow-attention"
    needs = ("step.time", "fused_attention.speedup")
    effort = "a few lines"
    treatment = "fused_attention"

    def check(self, seen: Evidence) -> Finding | None:
        """Nothing where the arm ran and no attention was met that could be fused: then it measured nothing."""
        ran = any(seen.values(arm) for arm in seen.arms_of(self.treatment))
        if ran and not seen.measurements("attention.fused"):
            return None
        return super().check(seen)

    def where(self, seen: Evidence) -> str:
        """The line of the first product that was fused most."""
        places = seen.measurements("attention.fused")
        return str(max(places, key=lambda place: place.median).conditions["site"]) if places else ""

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """Lines whose attention was fused, and memory with and without."""
        sites = [f"fused: the attention that begins at {p.conditions['site']}" for p in seen.measurements("attention.fused")]
        return [*sites, *seen.memory_of(arm)]
