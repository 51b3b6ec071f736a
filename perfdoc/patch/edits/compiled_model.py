"""Edit: torch.compile."""

from __future__ import annotations

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.statements import training_arguments
from perfdoc.patch.workspace import Workspace


class CompiledModelEdit(Edit):
    """``model.compile()`` before the optimizer is made: in place, so that checkpoints keep the names of their parameters."""

    slug = "compiled_model"

    def make(self, level: str, work: Workspace) -> str:
        """A statement, or Trainer's argument."""
        if work.framework == "transformers":
            mode = {} if level == "default" else {"torch_compile_mode": f'"{level}"'}
            return training_arguments(work, {"torch_compile": "True", **mode})
        models = work.models()
        if any(model == "self" for *_, model in models):
            raise CannotEdit("the module makes its optimizer itself: where it is complete is not seen", "")
        given = "" if level == "default" else f'mode="{level}"'
        for source, suite, place, model in models:
            source.insert_before(suite, place, f"{model}.compile({given})")
        return work.shown(models[0][0], models[0][1].body[models[0][2]])

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        return "model = torch.compile(model)" if level == "default" else f'model = torch.compile(model, mode="{level}")'
