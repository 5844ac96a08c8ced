"""The command that measures every run file on its data, or prints what was measured."""

from pathlib import Path
from typing import Annotated

import typer

from inspect_ai.commands.options import Compute, Device, Track, tracked, workshop


def benchmark(
    profile: Annotated[str, typer.Option(help="quick or full.")] = "quick",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; default: each spec's own root.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of run files.")] = Path("pipelines/runs"),
    results: Annotated[Path, typer.Option(help="Where rows are kept.")] = Path("pipelines/results"),
    out: Annotated[Path, typer.Option(help="For bundles, scores and page.")] = Path(
        "artefacts/benchmark"
    ),
    only: Annotated[list[str] | None, typer.Option(help="A run file by name; repeatable.")] = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the table of stored rows, measure nothing.")
    ] = False,
    retime: Annotated[
        bool, typer.Option("--retime", help="Time scans of stored rows again, on an idle machine.")
    ] = False,
    device: Compute = Device.cpu,
    track: Track = True,
) -> None:
    """Measure every run file on its data against the baselines; goes on where it was stopped."""
    from inspect_ai.benchmark.table import printed

    if print_only:
        typer.echo(printed(profile, runs, results), nl=False)
        return
    with workshop():
        from inspect_ai.benchmark import benchmark as bench
        from inspect_ai.train import torch_device

    computes = torch_device(device.value)
    asked = bench.Asked(profile, runs, results, out, data, tuple(only or ()), computes, retime)
    page = bench.run(asked, typer.echo, lambda title, key: tracked(title, track, key))
    typer.echo(f"\n{printed(profile, runs, results)}")
    typer.echo(f"rows: {results / profile}")
    typer.echo(f"page: {page}")
