"""A plan as tables for the terminal. What is counted is exact; what is estimated says so, with its
assumptions.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from components.config import catalogue
from components.plan.load import ASSUMPTIONS
from components.plan.run import Plan, fits


def show(plan: Plan) -> None:
    """Prints the plan."""
    console = Console(width=None if Console().is_terminal else 120)
    params = plan.params
    console.print(
        f"corpus {params.corpus}, encoder {params.encoder}, projector {params.projector}, llm "
        f"{params.llm}"
    )
    for table in (_audio(plan), _downloads(plan), _disk(plan), _parameters(plan), _loads(plan)):
        console.print(table)
    if plan.stands:
        console.print(
            f"Stand already, by dvc.lock ({gb(sum(plan.stands.values()))} GB): "
            f"{', '.join(plan.stands)}."
        )
    for kind, name in (("encoder", params.encoder), ("llm", params.llm)):
        if (
            catalogue.READERS[kind](name).source.kind in ("ctc", "copying")
            and kind not in plan.stands
        ):
            console.print(
                f"The {kind} {name} is trained here, on the processor: its time is not counted."
            )
    if any(each.rests_on == "nothing" for each in plan.audio) or not all(
        each.bytes for each in plan.downloads
    ):
        console.print("What is not known is not counted: disk, memory and hours are the least.")
    if plan.engine:
        held = (
            f" each holds 1/{plan.ranks} of the LLM's layers, and memory is that of one;"
            if plan.engine == "fsdp"
            else ""
        )
        console.print(
            f"{plan.ranks} ranks ({plan.engine}) train:{held} the hours are those of one card, "
            "which they share at best."
        )
    console.print(f"Memory and hours are estimates, not measured: {ASSUMPTIONS}.")


def gb(size: float) -> str:
    """Bytes as GB (10^9): two digits below ten."""
    return f"{size / 1e9:,.2f}" if size < 1e10 else f"{size / 1e9:,.0f}"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(first, title=title, title_justify="left")
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("source", "by", "from", "in") else "right"
        )
    return table


def _audio(plan: Plan) -> Table:
    table = _table("Audio", "role", "source", "hours", "utterances", "by")
    for each in plan.audio:
        known = each.rests_on != "nothing"
        table.add_row(
            each.role,
            each.source,
            f"{each.seconds / 3600:,.1f}" if known else "not known",
            f"{each.utterances:,}" if known else "",
            each.rests_on if known else "until 'corpus' has run",
        )
    return table


def _downloads(plan: Plan) -> Table:
    table = _table("Download", "what", "GB", "from")
    for each in plan.downloads:
        table.add_row(each.what, gb(each.bytes) if each.bytes else "not known", each.origin)
    table.add_row("all", gb(sum(each.bytes for each in plan.downloads)), "")
    return table


def _disk(plan: Plan) -> Table:
    table = _table("Disk", "what", "GB", "copies", "in")
    for each in plan.written:
        table.add_row(
            each.what,
            gb(each.bytes),
            str(len(each.places)),
            ", ".join(map(str, each.places)) or each.instead,
        )
    for room in plan.rooms:
        table.add_row(
            f"disk of {room.disk}: all that is written",
            gb(room.needed),
            "",
            f"{gb(room.free)} GB free",
        )
    return table


def _parameters(plan: Plan) -> Table:
    table = _table("Parameters", "module", "trained", "frozen")
    for module, (trained, frozen) in plan.networks.modules.items():
        if trained or frozen:
            table.add_row(module, millions(trained), millions(frozen))
    table.add_row(
        "all",
        millions(plan.networks.trained),
        millions(sum(frozen for _, frozen in plan.networks.modules.values())),
    )
    return table


def duration(hours: float) -> str:
    """Hours, or minutes below one."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def millions(count: int) -> str:
    """A count of parameters in millions, as papers print it."""
    return f"{count / 1e6:,.2f} M" if count else ""


def _loads(plan: Plan) -> Table:
    table = _table(
        "Memory and hours (estimates)",
        "on",
        *(f"{load.stage} ({load.dtype})" for load in plan.loads),
    )
    table.add_row("peak memory, GB", *(gb(load.memory) for load in plan.loads))
    for memory in plan.memory:
        said = [f"{'fits' if fits(load, memory) else 'TOO LARGE'}" for load in plan.loads]
        many = f", {memory.processes} processes" if memory.processes > 1 else ""
        table.add_row(f"{memory.name}: {gb(memory.bytes)} GB{many}", *said)
    for name, card in plan.gpus.items():
        hours = [load.hours(card) for load in plan.loads]
        large = [load.memory > card.memory * 1e9 for load in plan.loads]
        table.add_row(
            f"{name}: time",
            *(
                ("too large" if big else "not in this dtype" if hour is None else duration(hour))
                for hour, big in zip(hours, large)
            ),
        )
    return table
