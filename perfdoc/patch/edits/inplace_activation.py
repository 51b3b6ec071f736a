"""Edit: activations that overwrite their input."""

from __future__ import annotations

from perfdoc.patch.edit import Edit
from perfdoc.patch.workspace import Workspace

LOOP = """for layer in {model}.modules():
    if hasattr(layer, "inplace"):
        layer.inplace = True
"""


class InplaceActivationEdit(Edit):
    """The flag of every activation is set before the optimizer is made. Never part of a plan, made when it is asked for."""

    slug = "inplace_activation"

    def make(self, level: str, work: Workspace) -> str:
        """A loop over the model's layers."""
        models = work.models()
        for source, suite, place, model in models:
            source.insert_before(suite, place, LOOP.format(model=model))
        return work.shown(models[0][0], models[0][1].body[models[0][2]])

    def snippet(self, level: str, work: Workspace) -> str:
        """The flag."""
        return "nn.ReLU(inplace=True)"
