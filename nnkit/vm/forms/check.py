"""Whether a function's instructions are right: forms that the target has, with operands that fit."""

import re
from collections.abc import Mapping

from nnkit.ptx.ir import Function, Instruction, Module, PtxError
from nnkit.vm.forms import signature
from nnkit.vm.forms.table import FORMS, form_of


def check(module: Module, function: Function) -> None:
    """Note in the function the first instruction that is wrong, or that nobody emits."""
    spaces = {name: variable.space for name, variable in module.variables.items()}
    spaces |= {v.name: v.space for v in (*function.results, *function.variables)}
    spaces |= {v.name: "input" for v in function.parameters}
    target = int(re.sub(r"\D", "", module.target) or 0)
    for item in function.body or ():
        if function.error is not None and function.error.line <= getattr(item, "line", 0):
            return
        if isinstance(item, Instruction):
            words = _refusal(item, function.registers, spaces, target)
            if words:
                function.error = PtxError(words, item.line)
                return


def _refusal(item: Instruction, registers: Mapping[str, str], spaces: Mapping[str, str], target: int) -> str:
    name = item.spelling or item.name
    form = form_of(item)
    if form is None:
        what = "this form of it is" if item.opcode in FORMS else "it is"
        return f"instruction {name}: {what} not supported by the virtual device"
    if target < form.since:
        return f"instruction {name}: with {form.count} operands it needs .target sm_{form.since} or higher"
    words = signature.complaint(item, form.operands, registers, spaces)
    return f"instruction {name}: {words}" if words else ""
