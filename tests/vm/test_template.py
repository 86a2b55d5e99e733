"""Templates of LLVM IR: holes, the numbers of the records, and elements of tables."""

import pytest

from nnkit.vm.text.layout import Fault, Worker
from nnkit.vm.text.template import fill
from tests.support.alone import Alone, words


def test_holes_are_filled() -> None:
    assert fill("%x.$name = add i64 %y, $count", name="z", count=3) == "%x.z = add i64 %y, 3"
    assert fill("$Worker.FUEL $Fault.TRAP") == f"{int(Worker.FUEL)} {int(Fault.TRAP)}"


def test_what_fills_a_hole_may_have_numbers_and_elements() -> None:
    text = fill("$lines", lines="  %a = load i64, ptr %wk[$Worker.FUEL]")
    assert text.splitlines()[0].endswith(f"= getelementptr i64, ptr %wk, i64 {int(Worker.FUEL)}")


@pytest.mark.parametrize("text", ["%x = add i64 $other, 1", "$Worker.NOTHING"])
def test_a_hole_without_anything_is_refused(text: str) -> None:
    with pytest.raises(KeyError):
        fill(text)


def test_a_sign_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2"):
        fill("ret void\n$Worker.fuel")


def test_something_without_a_hole_is_refused() -> None:
    with pytest.raises(KeyError, match="other"):
        fill("%x = add i64 $count, 1", count=1, other=2)


def test_elements_of_tables_are_loaded_and_stored() -> None:
    text = """
define void @move(ptr %to, ptr %from, i64 %i) {
  %a = load i32, ptr %from[%i]
  %b = load atomic i64, ptr %from[2] monotonic, align 8
  %wide = sext i32 %a to i64
  store i64 %wide, ptr %to[%i]
  store atomic i64 %b, ptr %to[$at] monotonic, align 8
  ret void
}
"""
    source, target = words(4), words(4)
    source[0], source[2] = -7 << 32, 5
    Alone(fill(text, at=3)).move(target, source, 1)
    assert target.tolist() == [0, -7, 0, 5]
