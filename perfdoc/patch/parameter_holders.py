"""Which expressions hold the parameters that an optimizer is given: ``model`` in ``Adam(model.parameters())``."""

from __future__ import annotations

import libcst as cst

from perfdoc.patch.source import SourceFile


def is_plain_name(source: SourceFile, holder: cst.CSTNode) -> bool:
    """Whether it is a name, or attributes of one, that also exists outside of the expression it stands in."""
    root = holder
    while isinstance(root, cst.Attribute):
        root = root.value
    if not isinstance(root, cst.Name):
        return False
    for above in source.ancestors(holder):
        if isinstance(above, cst.BaseStatement):
            return True
        bound: list[cst.CSTNode] = []
        if isinstance(above, cst.BaseComp):
            loop: cst.CompFor | None = above.for_in
            while loop is not None:
                bound.append(loop.target)
                loop = loop.inner_for_in
        elif isinstance(above, cst.Lambda):
            bound.append(above.params)
        if any(name.value == root.value for node in bound for name in source.all(cst.Name, node)):
            return False
    return True


def gone_through(source: SourceFile, holder: cst.BaseExpression) -> list[cst.BaseExpression]:
    """What the name stands for where it goes through a literal: ``D`` and ``G`` in ``(... m.parameters() for m in (D, G))``."""
    for above in source.ancestors(holder):
        loop = above.for_in if isinstance(above, cst.BaseSimpleComp) else None
        if loop is None or loop.inner_for_in is not None or not isinstance(loop.iter, cst.Tuple | cst.List):
            continue
        if isinstance(holder, cst.Name) and isinstance(loop.target, cst.Name) and loop.target.value == holder.value:
            return [element.value for element in loop.iter.elements]
    return [holder]


def assigned_parameters(source: SourceFile, call: cst.Call) -> list[cst.BaseExpression]:
    """Holders of ``.parameters()`` in the assignment of the name that the optimizer is given."""
    names = {a.value.value for a in call.args if isinstance(a.value, cst.Name)}
    scope = source.function_of(call) or source.module
    found = []
    for assignment in source.all(cst.Assign, scope):
        targets = {t.target.value for t in assignment.targets if isinstance(t.target, cst.Name)}
        if targets & names:
            found += [
                c.func.value for c in source.all(cst.Call, assignment)
                if isinstance(c.func, cst.Attribute) and c.func.attr.value in ("parameters", "named_parameters")
            ]
    return found
