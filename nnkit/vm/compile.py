"""A kernel to native code: analysis, LLVM IR, LLVM's passes, an object file that can be kept."""

import os
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from nnkit.ptx.cfg import is_barrier
from nnkit.ptx.inline import inline
from nnkit.ptx.ir import Function, Instruction, Module, PtxError, Variable
from nnkit.vm import runtime, scheduler, table, warp
from nnkit.vm.analysis import Analysis
from nnkit.vm.emitter import Emitter, Memory, Site
from nnkit.vm.geometry import Launch
from nnkit.vm.region import emit_region


@dataclass(frozen=True)
class Program:
    """A kernel before it is specialised: its code without calls, and its variables' places."""

    function: Function
    memory: Memory
    warp_level: bool
    has_barrier: bool


def choose_width(program: Program, block: tuple[int, int, int]) -> int:
    """How many lanes run together: as many as are neighbours along x, up to what pays.

    A warp where lanes talk to each other. 16 around barriers, where many registers live long: one AVX-512
    register each. Up to 64 elsewhere, so that what is done once a vector is shared by more lanes.
    """
    if program.warp_level:
        return warp.WIDTH
    if program.has_barrier:
        return 16
    x, y, z = block
    wide = 32 if "f64" in program.function.registers.values() else 64
    if y == z == 1:
        return next((width for width in (64, 32) if width <= min(x, wide)), 16)
    return next((width for width in (64, 32) if width <= wide and x % width == 0), 16)


@dataclass
class Native:
    """Native code for one kind of launch, and what Python must know to run it and to explain its faults."""

    code: bytes
    width: int
    vectors: int
    frame_bytes: int
    local_bytes: int
    caches: int
    sites: list[Site] = field(default_factory=list)


def prepare(module: Module, kernel: str) -> Program:
    """Inline, refuse what is unknown, and lay out the variables. Raises PtxError."""
    function = inline(module, kernel)
    items = [item for item in function.body or [] if isinstance(item, Instruction)]
    for item in items:
        try:
            table.refuse_unknown(item)
        except PtxError as error:
            raise _located(error, kernel, item) from None
    warp_level = any(warp.is_warp_level(item) for item in items)
    has_barrier = any(is_barrier(item) for item in items)
    variables = [*module.variables.values(), *function.variables]
    addresses: dict[str, int] = {}
    shared = [v for v in variables if v.space == "shared"]
    static = _place([v for v in shared if v.size], addresses)
    # Dynamic shared memory begins behind the static, all its names at one place.
    unit = max([16, *(v.align for v in shared if not v.size)]) if any(not v.size for v in shared) else 1
    start = -(-static // unit) * unit
    addresses |= {v.name: start for v in shared if not v.size}
    local = _place([v for v in variables if v.space == "local"], addresses)
    parameters = _place(list(function.parameters), addresses)
    names = [v.name for v in module.variables.values() if v.space in ("global", "const")]
    memory = Memory(
        start, -(-local // 16) * 16, parameters, addresses, {name: i for i, name in enumerate(names)}
    )
    return Program(function, memory, warp_level, has_barrier)


def _located(error: PtxError, kernel: str, item: Instruction) -> PtxError:
    where = f" ({item.location})" if item.location.line else ""
    found = PtxError(f"kernel {kernel}, PTX line {item.line}{where}: {str(error).partition(': ')[2]}")
    found.line = item.line
    return found


def _place(variables: list[Variable], addresses: dict[str, int]) -> int:
    position = 0
    for variable in variables:
        position = -(-position // variable.align) * variable.align
        addresses[variable.name] = position
        position += variable.size
    return position


def llvm_text(program: Program, launch: Launch, has_avx512: bool, poison: bool) -> tuple[str, Emitter]:
    """The kernel as LLVM IR, with the emitter that knows its sites and sizes."""
    analysis = Analysis(program.function, launch, program.memory.addresses)
    emitter = Emitter(analysis, program.memory, has_avx512, poison)
    regions = [emit_region(emitter, region) for region in analysis.regions]
    text = emitter.text
    parts = [
        runtime.PROBABLE,
        *text.globals,
        *sorted(text.declarations),
        *text.functions.values(),
        runtime.checks(launch.width),
        *regions,
        scheduler.scheduler(len(regions), launch.vectors, launch.threads, launch.width, poison, is_x86()),
    ]
    return "\n".join(parts), emitter


def compile_kernel(program: Program, launch: Launch, poison: bool = False) -> Native:
    """Native code for a kind of launch. Raises PtxError for what cannot be emitted."""
    machine = target_machine()
    text, emitter = llvm_text(program, launch, has_avx512(), poison)
    code = _to_object(text, machine)
    return Native(
        code,
        launch.width,
        launch.vectors,
        emitter.frame_size,
        program.memory.local_bytes,
        emitter.caches,
        emitter.sites,
    )


@cache
def llvm() -> Any:
    """llvmlite, ready to compile for this processor."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


@cache
def host() -> tuple[str, str]:
    """The processor's name and features, as LLVM knows them."""
    binding = llvm()
    # LLVM prefers 256-bit registers on some processors for fear of lower clocks; here width is the point.
    features = binding.get_host_cpu_features().flatten()
    return binding.get_host_cpu_name(), features + ",-prefer-256-bit"


def has_avx512() -> bool:
    """Whether the processor has AVX-512's embedded rounding."""
    return "+avx512f" in host()[1].split(",")


def is_x86() -> bool:
    """Whether the host is an x86 processor."""
    return str(llvm().get_process_triple()).startswith(("x86_64", "i686"))


@cache
def target_machine() -> Any:
    """LLVM's description of this processor."""
    binding = llvm()
    name, features = host()
    target = binding.Target.from_default_triple()
    return target.create_target_machine(cpu=name, features=features, opt=1, reloc="pic", codemodel="small")


def _to_object(text: str, machine: Any) -> bytes:
    binding = llvm()
    dump = os.environ.get("NNKIT_DUMP_LLVM")
    if dump:
        with open(dump, "w") as out:
            out.write(text)
    module = binding.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    builder = binding.create_pass_builder(machine, options)
    passes = binding.create_new_function_pass_manager()
    # Enough to turn stack slots into values and to simplify masks; more passes cost time, not speed. NewGVN,
    # the only value numbering that llvmlite offers by itself, stops the process on some valid kernels.
    passes.add_sroa_pass()
    passes.add_sccp_pass()
    passes.add_simplify_cfg_pass()
    passes.add_sinking_pass()
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return bytes(machine.emit_object(module))


def as_document(native: Native) -> dict[str, Any]:
    """Everything but the code, for the cache."""
    document = asdict(native)
    del document["code"]
    return document
