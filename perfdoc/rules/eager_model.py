"""PD305: the model runs operator by operator."""

from __future__ import annotations

from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import TreatmentRule


class EagerModel(TreatmentRule):
    """A model in eager mode that torch.compile could make faster.

    What it measures
    ----------------
    Your step with the compiled model, switched on and off in your running loop. How long compilation takes, how many graphs,
    graph breaks and recompilations there are and why, and after how many steps the compilation has paid for itself.

    Why it costs time
    -----------------
    In eager mode every operator is called from Python, reads its inputs from memory and writes its result back. A compiler
    fuses chains of operators and calls them without Python. Large convolutions and matrix multiplications gain little.

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
    In short runs the compilation never pays for itself. Graph breaks, and shapes that change (which cause recompilation),
    use up the gain. Every process compiles again in its first steps unless the compiler's cache is kept.
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
