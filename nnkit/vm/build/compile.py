"""A kernel to native code: analysis, LLVM IR, LLVM's passes, an object file that can be kept."""

import re
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from nnkit.ptx.ir import PtxError
from nnkit.vm.analysis import settings
from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.analysis.kernel import Analysis
from nnkit.vm.build import apart, large
from nnkit.vm.code import scheduler
from nnkit.vm.code.region import emit_region
from nnkit.vm.emit import strand_functions
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.state import KernelState
from nnkit.vm.emit.values import Site
from nnkit.vm.instructions import absent
from nnkit.vm.memory import slow_checks
from nnkit.vm.memory.addresses import local_stride
from nnkit.vm.prepare.program import Program

_DECLARATION = re.compile(r"^declare .*$", re.MULTILINE)


@dataclass
class Native:
    """Native code for one kind of launch, and what Python must know to run it and to explain its faults."""

    code: bytes
    width: int
    vectors: int
    strands: int
    """How many there can be at most: as many as vectors, where their lanes wait together."""
    frame_bytes: int
    local_stride: int
    caches: int
    barriers: list[str]
    """For every region, the source line of the barrier behind which it begins, if it is known."""
    sites: list[Site]
    counters: list[str]
    """What the kernel counts, in the order of the words of each worker."""


def llvm_text(program: Program, launch: Launch, has_avx512: bool) -> tuple[str, KernelState]:
    """The kernel as LLVM IR, with the state that knows its sites and sizes."""
    analysis = Analysis(program.function, launch, program.memory.addresses)
    kernel = KernelState(analysis, program.memory, absent.suspects(analysis))
    emitter = Emitter(kernel, has_avx512)
    regions = [emit_region(emitter, region) for region in analysis.regions]
    templates = [
        slow_checks.checks(launch.width),
        strand_functions.functions(emitter),
        scheduler.scheduler(analysis.parts, len(regions), launch, is_x86()),
    ]
    text = emitter.text
    # A kernel may use what a template uses too, and LLVM takes no second declaration.
    declared = {line for template in templates for line in _DECLARATION.findall(template)}
    parts = [
        slow_checks.PROBABLE,
        *text.globals,
        *sorted(text.declarations | declared),
        *text.functions.values(),
        *(_DECLARATION.sub("", template) for template in templates),
        *regions,
    ]
    whole = "\n".join(parts)
    return whole if has_avx512 else large.with_few_accesses(whole, launch.width), kernel


def compile_kernel(program: Program, launch: Launch) -> Native:
    """Native code for a kind of launch. Raises PtxError for what cannot be emitted."""
    text, kernel = llvm_text(program, launch, has_avx512())
    if large.weight(text, launch.width) < large.WORTH_A_PROCESS:
        code = object_code(text, target_machine())
    else:
        code = apart.object_code(text, not large.is_large(text, launch.width), *host())
        if large.stack_bytes(code) > large.MOST_STACK:
            raise PtxError("the kernel is too large for a thread's stack: split it into several kernels")
    return Native(
        code,
        launch.width,
        launch.vectors,
        launch.vectors * (launch.width if kernel.analysis.parts else 1),
        kernel.frame.size,
        local_stride(program.memory),
        kernel.caches,
        [str(region.barrier) for region in kernel.analysis.regions],
        kernel.sites,
        kernel.counters,
    )


@cache
def llvm() -> Any:
    """llvmlite, ready to compile for this processor."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    if binding.llvm_version_info[0] <= large.KNOWN_LLVM:
        for option in large.OPTIONS:
            binding.set_option("", option)
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
    return machine_for(*host())


def machine_for(name: str, features: str, level: int = 1) -> Any:
    """LLVM's description of a processor; at level 0 code is made quickly, at level 1 well."""
    target = llvm().Target.from_default_triple()
    return target.create_target_machine(
        cpu=name, features=features, opt=level, reloc="pic", codemodel="small"
    )


def quick_code(text: str, machine: Any) -> bytes:
    """LLVM IR as it is, as an object file."""
    module = llvm().parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    return bytes(machine.emit_object(module))


def object_code(text: str, machine: Any) -> bytes:
    """LLVM IR, optimised a little, as an object file."""
    if dump := settings.dump():
        with open(dump, "w") as out:
            out.write(text)
    return bytes(machine.emit_object(optimised(text, machine)))


def optimised(text: str, machine: Any) -> Any:
    """LLVM's module of the text, behind its passes."""
    binding = llvm()
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
    return module


def as_document(native: Native) -> dict[str, Any]:
    """Everything but the code, for the cache."""
    document = asdict(native)
    del document["code"]
    return document
