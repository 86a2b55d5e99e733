"""An order of blocks in which every loop's blocks stand together."""


def ordered(entry: int, successors: dict[int, tuple[int, ...]]) -> list[int]:
    """The blocks reachable from `entry`, each after those that lead to it, a loop's blocks together.

    Edges back to a loop's first block are the only ones that run against the order (in an irreducible loop,
    the first block found is taken for its header).
    """
    result: list[int] = []
    for component in components(entry, successors):
        header = component[0]
        if len(component) == 1:
            result.append(header)
            continue
        inside = set(component)
        within = {
            number: tuple(t for t in successors[number] if t in inside and t != header)
            for number in component
        }
        result += ordered(header, within)
    return result


def components(entry: int, successors: dict[int, tuple[int, ...]]) -> list[list[int]]:
    """Strongly connected components in topological order (Tarjan), each with its entry in front."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    # An explicit stack: kernels with thousands of blocks would exceed Python's recursion limit.
    work: list[tuple[int, int]] = [(entry, 0)]
    while work:
        number, step = work.pop()
        if step == 0:
            index[number] = low[number] = len(index)
            stack.append(number)
            on_stack.add(number)
        # Not taken first: it is found last and so stands nearer to the branch.
        targets = successors[number]
        if step > 0 and targets[step - 1] in on_stack:
            low[number] = min(low[number], low[targets[step - 1]])
        pushed = False
        while step < len(targets):
            target = targets[step]
            step += 1
            if target not in index:
                work.append((number, step))
                work.append((target, 0))
                pushed = True
                break
            if target in on_stack:
                low[number] = min(low[number], index[target])
        if pushed:
            continue
        if low[number] == index[number]:
            component = []
            while True:
                member = stack.pop()
                on_stack.discard(member)
                component.append(member)
                if member == number:
                    break
            component.reverse()
            found.append(component)
    found.reverse()
    return found
