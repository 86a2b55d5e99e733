"""Extended-precision arithmetic: sums, differences and products of integers longer than a register.

The carry flag is a predicate register that the parser makes up. There is one for sums and differences, as
in the adder of a GPU, where a - b is a + ~b + 1: a difference sets it where nothing was borrowed. The PTX
manual tells of a borrow, which is the same where `subc` follows `sub.cc`; but NVRTC's division of 128-bit
integers asks by `addc` what `subc.cc` has left.
"""

from nnkit.ptx.ir import Instruction
from nnkit.vm.analysis.shapes import VARYING, Shape
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.operands import value_of
from nnkit.vm.emit.values import Value
from nnkit.vm.forms.registers import CARRY, reads_carry, sources, writes_carry
from nnkit.vm.forms.sections import EXTENDED
from nnkit.vm.forms.table import effect
from nnkit.vm.instructions.integer import base, is_signed
from nnkit.vm.text.builder import Lanes

TYPE = r"\.[us](32|64)"


@effect(EXTENDED, ">t t t", rf"add\.cc{TYPE}", lanes="joined", meaning="sum", carry="out")
@effect(EXTENDED, ">t t t", rf"sub\.cc{TYPE}", lanes="joined", meaning="difference", carry="out")
@effect(EXTENDED, ">t t t", rf"addc|subc{TYPE}", lanes="joined", carry="in")
@effect(EXTENDED, ">t t t", rf"addc|subc\.cc{TYPE}", lanes="joined", carry="both")
@effect(EXTENDED, ">t t t t", rf"mad\.lo\.cc{TYPE}", lanes="joined", meaning="product and sum", carry="out")
@effect(
    EXTENDED, ">t t t t", rf"mad\.hi\.cc{TYPE}", lanes="joined", meaning="high product and sum", carry="out"
)
@effect(EXTENDED, ">t t t t", rf"madc\.(lo|hi){TYPE}", lanes="joined", carry="in")
@effect(EXTENDED, ">t t t t", rf"madc\.(lo|hi)\.cc{TYPE}", lanes="joined", carry="both")
def _extended(e: Emitter, item: Instruction) -> None:
    """The result, and the carry flag where it is asked for."""
    target, *given = item.operands
    values = [value_of(e, operand, item.type) for operand in given]
    if reads_carry(item):
        values.append(e.read(CARRY))
    wide = any(e.kernel.analysis.shape(name).kind != "uniform" for name in sources(item))
    lanes = e.all if wide else e.one
    words = [e.vector(value) if wide else value.scalar for value in values]
    carry = words.pop() if reads_carry(item) else ""
    if item.opcode.startswith("mad"):
        a, b, c = words
        words = [_half(lanes, item, a, b), c]
    total, flag = _sum(lanes, item, words[0], words[1], carry)
    shape = VARYING if wide else Shape("uniform")

    def value(kind: str, word: str) -> Value:
        return Value(shape, kind, "" if wide else word, word if wide else "")

    e.assign(target, value(base(item), total))
    if writes_carry(item):
        e.write(CARRY, value("i1", flag))


def _half(x: Lanes, item: Instruction, a: str, b: str) -> str:
    """The lower or the upper half of a product."""
    kind = base(item)
    if "lo" in item.modifiers:
        return x.binary("mul", kind, a, b)
    bits = int(kind[1:])
    double = f"i{2 * bits}"
    a, b = (x.resize(kind, word, double, is_signed(item)) for word in (a, b))
    product = x.binary("mul", double, a, b)
    return x.cast("trunc", double, x.binary("lshr", double, product, x.constant(double, bits)), kind)


def _sum(x: Lanes, item: Instruction, a: str, b: str, carry: str) -> tuple[str, str]:
    """a + b + carry or a - b - (1 - carry), and the carry: for differences, whether nothing was borrowed."""
    kind = base(item)
    minus = item.opcode.startswith("sub")
    operation = "sub" if minus else "add"
    total = x.binary(operation, kind, a, b)
    flag = x.compare("ult", kind, a, b) if minus else x.compare("ult", kind, total, a)
    if carry:
        if minus:
            carry = x.binary("xor", "i1", carry, x.constant("i1", 1))
        step = x.cast("zext", "i1", carry, kind)
        first, total = total, x.binary(operation, kind, total, step)
        again = x.compare("ult", kind, first, step) if minus else x.compare("ult", kind, total, first)
        flag = x.binary("or", "i1", flag, again)
    if minus:
        flag = x.binary("xor", "i1", flag, x.constant("i1", 1))
    return total, flag
