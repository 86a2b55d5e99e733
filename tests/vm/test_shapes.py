"""What the analysis claims about registers is true of every lane: steps between lanes, range and divisor."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnkit.ptx.parse import parse
from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.analysis.kernel import Analysis
from nnkit.vm.analysis.options import Options
from tests.support.programs.straight import NEAR, Maker, Thread, signed
from tests.support.stress import examples

BLOCKS = [
    (32, 1, 1),
    (48, 1, 1),
    (37, 1, 1),
    (8, 8, 1),
    (16, 16, 1),
    (32, 8, 1),
    (5, 7, 1),
    (3, 4, 5),
    (64, 1, 2),
]
PARAMETERS = 4


@pytest.mark.slow
@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, (1 << 32) - 1),
    st.sampled_from(BLOCKS),
    st.sampled_from((1, 16, 32)),
    st.lists(st.sampled_from(NEAR), min_size=PARAMETERS, max_size=PARAMETERS),
)
def test_every_claim_holds_in_every_lane(
    seed: int, block: tuple[int, int, int], width: int, parameters: list[int]
) -> None:
    program = Maker(random.Random(seed), PARAMETERS).grow(60)
    function = parse(program.kernel(PARAMETERS, stored=False)).functions["k"]
    x, y, z = block
    analysis = Analysis(function, Launch(block, True, Options(width)), {})
    words = np.random.default_rng(1).integers(0, 1 << 32, x * y * z, np.uint64)
    values = [
        program.values(
            Thread((t % x, t // x % y, t // (x * y)), (ctaid, 0, 0), block, tuple(parameters), int(words[t]))
        )
        for ctaid in (0, 3, 65534)
        for t in range(x * y * z)
    ]
    threads = x * y * z
    for number, (name, bits) in enumerate(program.registers):
        shape = analysis.shape(name)
        if not shape.is_scalar:
            continue
        steps = shape.pattern or (0,) * width
        for start in range(0, len(values), threads):
            for first in range(start, start + threads, width):
                lanes = [values[t][number] for t in range(first, min(first + width, start + threads))]
                base = signed(lanes[0], bits)
                said = f"{name} = {program.lines[number]} claimed {shape}, is {lanes}\n" + "\n".join(
                    program.lines
                )
                assert [(base + step) % (1 << bits) for step in steps[: len(lanes)]] == lanes, said
                # 16-bit registers may be described either way: nothing wider is derived from them as signed.
                assert shape.low <= base <= shape.high or (
                    bits == 16 and shape.low <= lanes[0] <= shape.high
                ), said
                assert base % shape.multiple == 0 if shape.multiple else base == 0, said
