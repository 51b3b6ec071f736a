"""PD305: the model runs operator by operator."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class EagerModel(TreatmentRule):
    """A model in eager mode that torch.compile could fuse.

    What it measures
    ----------------
    Your step with the compiled model, switched in your running loop; the seconds of compilation, graphs, graph breaks,
    recompilations and why they came, and after how many steps the compilation is repaid.

    Why it costs time
    -----------------
    Every operator is dispatched from Python, reads its inputs from memory and writes its result back. A compiler fuses chains
    of them and skips the dispatch. Large convolutions and matrix multiplications gain little.

    Example
    -------
    ::

        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Dropout())

    Use instead
    -----------
    ::

        model = torch.compile(model)

    When this is wrong
    ------------------
    Short runs never repay the compilation. Graph breaks and changing shapes (recompilation) eat the gain. The first steps of
    every process pay again unless the cache is kept.
    """

    code = "PD305"
    slug = "eager-model"
    needs = ("step.time", "compiled_model.speedup")
    treatment = "compiled_model"

    def evidence(self, seen: Evidence, arm: str) -> list[str]:
        """Graphs, graph breaks, and recompilations with a reason."""
        graphs, breaks = seen.measurement("compile.graphs"), seen.measurement("compile.graph_breaks")
        if graphs is None or breaks is None:
            return []
        said = [f"{graphs.median:.0f} graphs and {breaks.median:.0f} graph breaks in all that was compiled"]
        again = seen.measurement("compile.recompiles")
        if again is not None and again.median:
            why = again.conditions.get("reason")
            said.append(f"recompiled {again.median:.0f} times" + (f", the last time because of {why}" if why else ""))
        return said
