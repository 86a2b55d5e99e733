"""A short part of what tools/fuzz does: guarded accesses in PTX, by every way to compute an address."""

from vm_fuzz import numbers, run
from vm_stress import examples


def test_guarded_accesses_by_every_way_to_compute_an_address() -> None:
    # Programs 5 and 7 ended the process when only lane 0's address, whether active or not, led a vector.
    begun, failures = run("addresses", numbers(2, examples(6)))
    assert not failures, "\n\n".join(map(str, failures))
    assert begun == examples(6)
