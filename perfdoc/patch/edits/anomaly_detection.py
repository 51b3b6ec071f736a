"""Edit: autograd's anomaly mode off."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.cannot_edit import CannotEdit
from perfdoc.patch.edit import Edit
from perfdoc.patch.source import last_name
from perfdoc.patch.workspace import Workspace


class AnomalyDetectionEdit(Edit):
    """The argument of the call that switches anomaly mode on becomes False."""

    slug = "anomaly_detection"

    def make(self, level: str, work: Workspace) -> str:
        """The call's argument."""
        found = work.calls_of("set_detect_anomaly", "detect_anomaly")
        if not found:
            raise CannotEdit("no call of set_detect_anomaly stands in the files that were seen", "")
        source, call = found[-1]
        if len(found) > 1:
            raise CannotEdit("there are several calls that switch it on", "", work.shown(source, call))
        if last_name(source.code(call.func)) == "detect_anomaly":
            source.change(call, lambda node: cst.parse_expression(f"{source.torch()}.autograd.set_detect_anomaly(False)"))
        else:
            source.change(call, lambda node: node.with_changes(args=[cst.Arg(cst.Name("False"))]))
        return work.shown(source, call)

    def snippet(self, level: str, work: Workspace) -> str:
        """The call."""
        return "torch.autograd.set_detect_anomaly(False)"
