"""`nnkit backends`: what is installed, and what is wrong with it."""

from nnkit.cli import options


def backends(json: options.Json = False) -> None:
    """List the backends that are installed, the broken ones with the reason."""
    from nnkit.plugins import Registry

    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "distribution": entry.distribution,
            "devices": list(entry.devices),
            "status": entry.status,
            "error": entry.error,
        }
        for entry in Registry.discover().entries
    ]
    if json:
        options.print_json({"backends": rows})
        return

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "kind", "distribution", "devices", "status"):
        table.add_column(heading)
    table.add_column("error", overflow="fold")
    for row in rows:
        # Text, not str: rich would take brackets in a plugin's message for markup.
        cells = [" ".join(cell) if isinstance(cell, list) else str(cell) for cell in row.values()]
        table.add_row(*(Text(cell, "red" if row["error"] else "") for cell in cells))
    Console(highlight=False).print(table)
