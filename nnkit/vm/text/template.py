"""Functions in LLVM IR that are written out whole: text with named holes.

It is LLVM's own language but for two things. `$name` is a hole; `$Worker.FUEL`, `$Context.STOP` and
`$Fault.TRAP` are the numbers of `nnkit.vm.text.layout`. And a load or a store may name an element of a table:
`%r = load i32, ptr %table[%i]` stands for itself behind the getelementptr that it needs.
"""

import re
import string
from enum import IntEnum

from nnkit.vm.text.layout import Context, Fault, Worker

_RECORDS: tuple[type[IntEnum], ...] = (Context, Worker, Fault)
_NUMBERS = {f"{record.__name__}.{field.name}": int(field) for record in _RECORDS for field in record}

_ELEMENT = re.compile(
    r"^ *(?P<access>(?:%(?P<result>[\w.]+) = load|store) (?:atomic )?(?P<type>\w+).*, ptr )"
    r"(?P<table>%[\w.]+)\[(?P<index>[%\w.]+)\]",
    re.MULTILINE,
)


class _Template(string.Template):
    idpattern = r"(?:Context|Worker|Fault)\.[A-Z_]+|[a-z_]+"
    flags = re.NOFLAG


def fill(text: str, **holes: str | int) -> str:
    """LLVM IR of a template; what fills a hole may be lines in the same language.

    Raises KeyError for a hole that is given nothing, and for one that is not there; ValueError for another $.
    """
    template = _Template(text)
    unknown = holes.keys() - set(template.get_identifiers())
    if unknown:
        raise KeyError(*sorted(unknown))
    filled = _Template(template.safe_substitute(holes)).substitute(_NUMBERS)
    places = 0

    def place(found: re.Match[str]) -> str:
        nonlocal places
        places += 1
        name = f"%{found['result'] or 'to'}.at{places}"
        step = f"getelementptr {found['type']}, ptr {found['table']}, i64 {found['index']}"
        return f"  {name} = {step}\n  {found['access']}{name}"

    return _ELEMENT.sub(place, filled)
