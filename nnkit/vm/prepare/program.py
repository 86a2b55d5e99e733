"""A kernel before it is specialised for a block: one body without calls, and its variables' places."""

from dataclasses import dataclass

from nnkit.ptx.ir import Address, Function, Instruction, Module, Operand, PtxError, Symbol, Variable, Vector
from nnkit.vm.emit.values import Memory
from nnkit.vm.forms import table
from nnkit.vm.forms.check import check
from nnkit.vm.instructions import calls, warp
from nnkit.vm.prepare import cuts
from nnkit.vm.prepare.in_step import relies_on_step
from nnkit.vm.prepare.inline import inline
from nnkit.vm.prepare.widths import make_explicit

STATIC_SHARED_BYTES = 48 * 1024
"""The most shared memory that a kernel's own variables may take; a launch can add more."""

LOCAL_BYTES = 512 * 1024
"""The most local memory of a thread. Both limits are those of every GPU since compute capability 2.0."""


CONSTANT_BYTES = 64 * 1024
"""The most constant memory of a whole module, of every GPU too."""


PARAMETER_BYTES = 32764
"""The most that a kernel's parameters take, since PTX 8.1."""


MANY = 2000
"""Instructions above which vectors are kept short."""


@dataclass(frozen=True)
class Traits:
    """What a launch must know of a kernel besides its native code; sizes in bytes."""

    static_shared: int
    local_bytes: int
    parameter_bytes: int
    instructions: int
    warp_level: bool
    """Whether a vector must be a warp: its threads talk to each other, or rely on going in step."""
    has_barrier: bool
    has_doubles: bool


@dataclass(frozen=True)
class Program:
    """A kernel's code and its memory."""

    function: Function
    memory: Memory
    traits: Traits


def choose_width(traits: Traits, block: tuple[int, int, int]) -> int:
    """How many lanes run together: as many as are neighbours along x, up to what pays.

    A warp where lanes talk to each other or must go in step. 16 around barriers, where many registers live
    long: one AVX-512 register each, and in long code, which takes the longer to compile the wider it is. Up
    to 64 elsewhere: what is done once a vector is shared by more lanes.
    """
    if traits.warp_level:
        return warp.WIDTH
    if traits.has_barrier:
        return 16
    if traits.instructions > MANY:
        return 16
    x, y, z = block
    wide = 32 if traits.has_doubles else 64
    if y == z == 1:
        return next((width for width in (64, 32) if width <= min(x, wide)), 16)
    return next((width for width in (64, 32) if width <= wide and x % width == 0), 16)


def prepare(module: Module, kernel: str) -> Program:
    """Inline, refuse what is unknown, and lay out the variables. Raises PtxError."""
    for name in _called(module, kernel):
        called = module.functions[name]
        if not called.checked:
            called.checked = True
            check(module, called)
    function = inline(module, kernel)
    make_explicit(function)
    items = [item for item in function.body or [] if isinstance(item, Instruction)]
    for item in items:
        calls.refuse_unknown(item, function.registers)
    function = cuts.restore(function)
    memory = _memory(module, function)
    _refuse_too_much(function, memory)
    traits = Traits(
        static_shared=memory.static_shared,
        local_bytes=memory.local_bytes,
        parameter_bytes=memory.parameter_bytes,
        instructions=len(items),
        warp_level=any(map(table.is_warp_level, items)) or relies_on_step(function),
        has_barrier=any(table.way_of(item) == "barrier" for item in items),
        has_doubles="f64" in function.registers.values(),
    )
    return Program(function, memory, traits)


def _called(module: Module, kernel: str) -> list[str]:
    """The kernel, and every function of the module that it may come to."""
    found = [kernel]
    for name in found:
        for item in module.functions[name].body or ():
            if isinstance(item, Instruction) and table.way_of(item) == "call":
                target = item.operands[1]
                if (
                    isinstance(target, Symbol)
                    and target.name in module.functions
                    and target.name not in found
                ):
                    found.append(target.name)
    return found


def _memory(module: Module, function: Function) -> Memory:
    variables = [*module.variables.values(), *function.variables]
    addresses: dict[str, int] = {}
    named = _named(function)
    # What only other kernels of the module use takes no room here.
    shared = [v for v in variables if v.space == "shared" and v.name in named]
    static = _place([v for v in shared if v.size], addresses)
    # Dynamic shared memory begins behind the static, all its names at one place.
    unit = max([16, *(v.align for v in shared if not v.size)]) if any(not v.size for v in shared) else 1
    start = -(-static // unit) * unit
    addresses |= {v.name: start for v in shared if not v.size}
    local = _place([v for v in variables if v.space == "local"], addresses)
    parameters = _place(list(function.parameters), addresses)
    names = [v.name for v in module.variables.values() if v.space in ("global", "const")]
    return Memory(start, local, parameters, addresses, {name: i for i, name in enumerate(names)})


def _named(function: Function) -> set[str]:
    """The variables that a body names."""
    found: set[str] = set()

    def look(operand: Operand | None) -> None:
        match operand:
            case Symbol(name):
                found.add(name)
            case Address(base):
                look(base)
            case Vector(parts):
                for part in parts:
                    look(part)

    for item in function.body or []:
        if isinstance(item, Instruction):
            for operand in item.operands:
                look(operand)
    return found


def refuse_constants(module: Module) -> None:
    """Raise PtxError for a module whose constant variables no GPU has room for; one is checked for all."""
    end = 0
    for variable in module.variables.values():
        if variable.space == "const":
            end = -(-end // variable.align) * variable.align + variable.size
    if end > CONSTANT_BYTES:
        raise PtxError(
            f"{end} bytes of constant memory, a module can have {CONSTANT_BYTES}: keep large tables in "
            "global memory, __device__ or const *"
        )


def _refuse_too_much(function: Function, memory: Memory) -> None:
    """Raise PtxError for a kernel whose variables no GPU has room for."""
    items = [item for item in function.body or [] if isinstance(item, Instruction)]
    line = next((item.line for item in items if item.location.line), function.line)
    if memory.static_shared > STATIC_SHARED_BYTES:
        raise PtxError(
            f"{memory.static_shared} bytes of static shared memory, a kernel can have {STATIC_SHARED_BYTES}: "
            "declare it extern and give the launch shared_bytes",
            line,
        )
    if memory.parameter_bytes > PARAMETER_BYTES:
        raise PtxError(
            f"{memory.parameter_bytes} bytes of parameters, a kernel can have {PARAMETER_BYTES}: "
            "pass a pointer instead",
            function.line,
        )
    # A function that was put in at several places has its variables once.
    local = {v.name.partition("@")[0]: v.size for v in function.variables if v.space == "local"}
    if sum(local.values()) > LOCAL_BYTES:
        raise PtxError(
            f"{sum(local.values())} bytes of local memory a thread, it can have {LOCAL_BYTES}: keep large "
            "arrays in global memory",
            line,
        )


def _place(variables: list[Variable], addresses: dict[str, int]) -> int:
    position = 0
    for variable in variables:
        position = -(-position // variable.align) * variable.align
        addresses[variable.name] = position
        position += variable.size
    return position
