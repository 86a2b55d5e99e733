"""Random nested statements in PTX, as compilers write them: choices, loops, switches, and barriers."""

import random

from tests.support.programs.flow import Item, Lane, Maker


class Structured(Maker):
    """Nested statements: what compilers make of programs, barriers where all threads come."""

    def statements(self, count: int, depth: int, uniform: bool, loop: tuple[str, str] | None) -> None:
        """A sequence; `loop` holds where `continue` and `break` lead."""
        for _ in range(count):
            kind = self.rng.randrange(14)
            if kind < 4 or depth == 0:
                self.operations(self.rng.randrange(1, 5))
            elif kind < 7:
                self.choice(depth, loop)
            elif kind < 9:
                self.loop(depth)
            elif kind == 9:
                self.cases(depth, loop)
            elif kind == 10 and loop:
                self.jump(self.rng.choice(loop))
            elif kind == 11 and self.rng.randrange(3) == 0:
                self.leave()
            elif kind == 12 and uniform:
                self.exchange()
            elif kind == 13:
                self.uniform_loop(depth, uniform)

    def choice(self, depth: int, loop: tuple[str, str] | None) -> None:
        other, end = self.label(), self.label()
        self.jump(other)
        self.statements(self.rng.randrange(1, 3), depth - 1, False, loop)
        if self.rng.random() < 0.5:
            self.jump(end, conditional=False)
            self.place(other)
            self.statements(self.rng.randrange(1, 3), depth - 1, False, loop)
        else:
            self.place(other)
        self.place(end)

    def loop(self, depth: int) -> None:
        head, again, end = self.label(), self.label(), self.label()
        self.place(head)
        self.burn(end)
        self.statements(self.rng.randrange(1, 3), depth - 1, False, (again, end))
        self.place(again)
        self.operations(1)
        self.jump(head)
        self.place(end)

    def cases(self, depth: int, loop: tuple[str, str] | None) -> None:
        labels, end = [self.label() for _ in range(self.rng.randrange(2, 5))], self.label()
        self.switch(labels)
        for label in labels:
            self.place(label)
            self.statements(1, depth - 1, False, loop)
            if self.rng.random() < 0.7:
                self.jump(end, conditional=False)
        self.place(end)

    def uniform_loop(self, depth: int, uniform: bool) -> None:
        """A loop that all threads run equally often; barriers may stand in it."""
        number, head = self.labels, self.label()
        times = self.rng.randrange(1, 4)

        def begin(lane: Lane) -> None:
            lane.counters[number] = 0

        def step(lane: Lane) -> None:
            lane.counters[number] += 1

        self.items.append(Item(f".reg .b32 %u{number}; mov.u32 %u{number}, 0;", begin))
        self.place(head)
        self.statements(self.rng.randrange(1, 3), depth - 1, uniform, None)
        self.items.append(
            Item(
                f"add.u32 %u{number}, %u{number}, 1; setp.lt.u32 %pf, %u{number}, {times}; @%pf bra {head};",
                step,
                jump=lambda lane: head if lane.counters[number] < times else None,
            )
        )


def structured(rng: random.Random, statements: int) -> list[Item]:
    """Nested control flow."""
    maker = Structured(rng)
    maker.operations(8)
    maker.statements(statements, 3, True, None)
    return [*maker.items, Item("DONE:", label="DONE")]
