"""A plan as tables for the terminal. What is counted is exact; what is estimated says so, with its
assumptions.

In: a plan. Out: text on standard output. Cost: milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from components.config import catalogue
from components.config.model_sources import TrainedLlmSource
from components.config.training import SHORT_EPOCHS
from components.plan.head import count_head_parameters
from components.plan.length import sum_speech_epochs
from components.plan.load import ASSUMPTIONS, CORE_RATE, StageLoad
from components.plan.machine import Memory
from components.plan.recipe import suggest_recipe
from components.plan.run import RunPlan, count_processes, has_memory

PLAIN_WIDTH = 120  # columns where the output is no terminal
SHORT_HOURS = 1.0  # of this machine's processor, below which hours of GPUs say nothing
TEXT_COLUMNS = ("source", "by", "from", "in")  # the others have figures, aligned to the right


def print_plan(plan: RunPlan) -> None:
    """Prints the plan."""
    console = Console(width=None if Console().is_terminal else PLAIN_WIDTH)
    params = plan.params
    console.print(
        f"corpus {params.corpus}, encoder {params.encoder}, projector {params.projector}, llm "
        f"{params.llm}"
    )
    for table in (_audio(plan), _downloads(plan), _disk(plan), _parameters(plan)):
        console.print(table)
    if plan.encoder_lengths or plan.lengths:
        console.print(_lengths(plan))
    console.print(_loads(plan))
    for remark in _remarks(plan):
        console.print(remark)
    console.print(f"Memory and hours are estimates, not measured: {_assumptions(plan)}.")
    if warning := warn_of_short_training(plan):
        console.print(warning, style="bold red")


def _assumptions(plan: RunPlan) -> str:
    if not any(memory.is_processor for memory in plan.memories):
        return ASSUMPTIONS
    rate = f"{CORE_RATE / 1e9:g} GFlop/s of a core, as measured in the embedded run"
    return f"{rate}; {ASSUMPTIONS}" if needs_gpu(plan) else rate


def warn_of_short_training(plan: RunPlan) -> str:
    """What to do where the training sees less than half of its speech once; empty otherwise."""
    speech_s = sum(amount.seconds for amount in plan.audio if amount.role == "train")
    epochs = sum_speech_epochs(plan.lengths)
    if not plan.lengths or not speech_s or epochs >= SHORT_EPOCHS:
        return ""
    recipe = suggest_recipe(plan.params)
    hint = f"Put a recipe on: libretto use {recipe}" if recipe else "Raise train.curriculum"
    return (
        f"WARNING: {epochs:.3f} epochs: the training sees a small part of its "
        f"{speech_s / 3600:,.0f} h of speech. {hint}."
    )


def _remarks(plan: RunPlan) -> Iterator[str]:
    """Sentences below the tables."""
    if plan.up_to_date:
        yield (
            f"Up to date by dvc.lock ({format_gb(sum(plan.up_to_date.values()))} GB): "
            f"{', '.join(plan.up_to_date)}."
        )
    llm = catalogue.llm(plan.params.llm)
    if isinstance(llm.source, TrainedLlmSource) and "llm" not in plan.up_to_date:
        yield f"The llm {plan.params.llm} is trained here: its time is not counted."
    if count_head_parameters(plan.params, plan.networks):
        hours = min(
            plan.params.ctc.hours,
            sum(amount.seconds for amount in plan.audio if amount.role == "train") / 3600,
        )
        yield (
            f"{plan.params.encoder} has no CTC head for these frames: the stage ctc trains one on "
            f"{hours:,.0f} h of speech, {plan.params.ctc.epochs} times."
        )
    if plan.other_loads and needs_gpu(plan):
        yield _compare_modes(plan)
    has_all_audio = all(amount.has_basis for amount in plan.audio)
    if not has_all_audio or not all(download.num_bytes for download in plan.downloads):
        yield "What is not known is not counted: disk, memory and hours are lower bounds."
    if plan.engine:
        share = (
            f" each has 1/{plan.num_ranks} of the LLM's layers, and memory is that of one;"
            if plan.engine == "fsdp"
            else ""
        )
        yield (
            f"{plan.num_ranks} ranks ({plan.engine}) train:{share} the hours are those of one "
            "card, which they share at best."
        )
    has_training = plan.lengths and "train" not in plan.up_to_date
    if has_training and plan.num_ranks < plan.num_gpus:
        yield (
            f"Only {plan.num_ranks} of {plan.num_gpus} GPUs train: raise train.micro_batches to "
            f"{plan.num_gpus}."
        )


def estimate_hours_here(load: StageLoad, memory: Memory) -> float:
    """Hours of a stage on the processor that has this memory: a core for each of its processes."""
    return load.estimate_core_hours() / count_processes(load, memory)


def needs_gpu(plan: RunPlan) -> bool:
    """Whether hours of GPUs matter: not where the processor takes less than ``SHORT_HOURS``."""
    processors = [memory for memory in plan.memories if memory.is_processor]
    return not processors or any(
        sum(estimate_hours_here(load, memory) for load in plan.loads) >= SHORT_HOURS
        for memory in processors
    )


def _compare_modes(plan: RunPlan) -> str:
    """Hours of the fastest card with frames cached and live, and the disk for cached ones."""
    name, gpu = max(plan.gpus.items(), key=lambda item: max(item[1].rates.values()))
    loads = {plan.params.features.mode: plan.loads}
    loads["live" if "cached" in loads else "cached"] = plan.other_loads
    hours = {
        mode: format_hours(sum(load.estimate_hours(gpu) or 0 for load in own))
        for mode, own in loads.items()
    }
    num_bytes = sum(use.num_bytes for use in plan.disk_uses if use.name.startswith("features"))
    disk = f" and {format_gb(num_bytes)} GB" if num_bytes else ""
    return (
        f"All stages with features.mode cached: {hours['cached']} on one {name}{disk} for frames, "
        f"which every run with this encoder and audio shares; live: {hours['live']}."
    )


def format_gb(num_bytes: float) -> str:
    """Bytes as GB (10^9): two digits below ten."""
    return f"{num_bytes / 1e9:,.2f}" if num_bytes < 1e10 else f"{num_bytes / 1e9:,.0f}"


def format_hours(hours: float) -> str:
    """Hours, or minutes below one."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def format_millions(count: int) -> str:
    """A count of parameters in millions, as papers print it; empty for none."""
    return f"{count / 1e6:,.2f} M" if count else ""


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(first, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in TEXT_COLUMNS else "right")
    return table


def _audio(plan: RunPlan) -> Table:
    table = _table("Audio", "role", "source", "hours", "utterances", "by")
    for amount in plan.audio:
        if amount.has_basis:
            figures = (
                f"{amount.seconds / 3600:,.1f}",
                f"{amount.num_utterances:,}",
                amount.basis,
            )
        else:
            figures = ("not known", "", "until 'corpus' has run")
        table.add_row(amount.role, amount.source, *figures)
    return table


def _downloads(plan: RunPlan) -> Table:
    table = _table("Download", "name", "GB", "from")
    for download in plan.downloads:
        size = format_gb(download.num_bytes) if download.num_bytes else "not known"
        table.add_row(download.name, size, download.origin)
    table.add_row("all", format_gb(sum(download.num_bytes for download in plan.downloads)), "")
    return table


def _disk(plan: RunPlan) -> Table:
    table = _table("Disk", "name", "GB", "copies", "in")
    for use in plan.disk_uses:
        folders = ", ".join(map(str, use.folders)) or use.remark
        table.add_row(use.name, format_gb(use.num_bytes), str(len(use.folders)), folders)
    for space in plan.disk_spaces:
        table.add_row(
            f"disk of {space.folder}: all that is written",
            format_gb(space.needed_bytes),
            "",
            f"{format_gb(space.free_bytes)} GB free",
        )
    return table


def _parameters(plan: RunPlan) -> Table:
    table = _table("Parameters", "module", "trained", "frozen")
    modules = plan.networks.modules
    for module, counts in modules.items():
        if any(counts):
            table.add_row(module, *map(format_millions, counts))
    num_head = count_head_parameters(plan.params, plan.networks)
    if num_head:
        table.add_row("CTC head", format_millions(num_head), "")
    num_trained = plan.networks.num_trained + num_head
    num_frozen = sum(frozen for _, frozen in modules.values())
    table.add_row("all", format_millions(num_trained), format_millions(num_frozen))
    return table


def _lengths(plan: RunPlan) -> Table:
    table = _table("Training (estimates: full batches)", "stage", "steps", "epochs", "audio, hours")
    for length in (*plan.encoder_lengths, *plan.lengths):
        table.add_row(
            length.name,
            f"{length.num_steps:,}",
            f"{length.epochs:,.2f}",
            f"{length.seconds / 3600:,.1f}",
        )
    table.add_row(
        "all of train",
        f"{sum(length.num_steps for length in plan.lengths):,}",
        f"{sum_speech_epochs(plan.lengths):,.2f}",
        f"{sum(length.seconds for length in plan.lengths) / 3600:,.1f}",
    )
    return table


def _loads(plan: RunPlan) -> Table:
    stages = [f"{load.stage} ({load.dtype})" for load in plan.loads]
    table = _table("Memory and hours (estimates)", "on", *stages)
    table.add_row("peak memory, GB", *(format_gb(load.peak_bytes) for load in plan.loads))
    for memory in plan.memories:
        verdicts = ["fits" if has_memory(load, memory) else "TOO LARGE" for load in plan.loads]
        counts = {count_processes(load, memory) for load in plan.loads} - {1}
        count_range = "-".join(map(str, sorted({min(counts), max(counts)}))) if counts else ""
        processes = f", {count_range} processes" if counts else ""
        table.add_row(f"{memory.name}: {format_gb(memory.num_bytes)} GB{processes}", *verdicts)
    for memory in filter(lambda memory: memory.is_processor, plan.memories):
        times = [format_hours(estimate_hours_here(load, memory)) for load in plan.loads]
        table.add_row(f"{memory.name}: time", *times)
    for name, gpu in plan.gpus.items() if needs_gpu(plan) else ():
        times = []
        for load in plan.loads:
            hours = load.estimate_hours(gpu)
            if load.peak_bytes > gpu.memory * 1e9:
                times.append("too large")
            else:
                times.append("not in this dtype" if hours is None else format_hours(hours))
        table.add_row(f"{name}: time", *times)
    return table
