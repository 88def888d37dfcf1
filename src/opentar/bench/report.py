"""The report as a table for people and as JSON."""

from __future__ import annotations

import dataclasses
import os
import platform
from typing import Any

from opentar.bench.limits import Limits, mean
from opentar.bench.rows import Row
from opentar.bench.run import Report
from opentar.bench.work import FLOW

HEAD = ("work", "engine", "exact", "s", "baseline s", "ratio", "tokens/s", "of limit", "GB", "baseline GB", "meets")


def as_dict(report: Report, device: str) -> dict[str, Any]:
    """The whole report, ready for JSON: model, size, device, machine, baseline, rows, works, skipped, interrupted."""
    machine: dict[str, Any] = {"cores": cores(), "processor": processor(), "system": platform.system()}
    machine["path"] = path_taken()
    machine["measured"] = [limits.to_dict() for limits in report.limits]
    return {
        "model": report.facts.name,
        "size": report.facts.size,
        "device": device,
        "machine": machine,
        "baseline": FLOW,
        "rows": [dataclasses.asdict(row) for row in report.rows],
        "works": report.titles,
        "skipped": report.skipped,
        "interrupted": report.interrupted,
    }


def lines(report: Report, device: str) -> list[str]:
    """The report as Markdown: the machine, the table, what was left out."""
    told = [f"{report.facts.name} on {device}, {processor()}, {cores()} cores, {platform.system()}"]
    told += [f"limits   {text}" for text in _limits(report.limits)]
    told.append("path     " + ", ".join(f"{name} {value}" for name, value in path_taken().items()))
    told += [f"baseline {FLOW}", ""]
    told += table(report.rows)
    if any(row.target for row in report.rows):
        told.append("")
        told += [f"target   {row.work}, {row.engine}: {row.target}" for row in report.rows if row.target]
    told += [f"skipped  {one['work']}, {one['engine']}: {one['why']}" for one in report.skipped]
    if report.interrupted:
        told.append("interrupted: these are the rows so far")
    return told


def table(rows: list[Row]) -> list[str]:
    """Rows as the lines of a Markdown table; a dash stands for what was not measured."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(HEAD))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    drawn = [f"| {' | '.join(row)} |" for row in padded]
    return [drawn[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *drawn[1:]]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor, where the system says it, else its kind."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return next((name for name in names if name), platform.processor() or platform.machine())


def path_taken() -> dict[str, str]:
    """What this processor computes with, in words: instructions, bfloat16, whole numbers, threads."""
    import torch

    from opentar.core.device import has_bf16_cpu
    from opentar.nn.int8 import kernel

    product = kernel()
    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": "in hardware" if has_bf16_cpu() else "emulated",
        "int8": f"{product.name}, {product.levels} levels a side",
        "threads": str(torch.get_num_threads()),
    }


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return (
        row.work,
        row.engine,
        "yes" if row.exact else "no",
        number(row.seconds, 3 if row.seconds < 1 else 2),
        "-" if row.baseline_seconds is None else number(row.baseline_seconds, 3 if row.baseline_seconds < 1 else 2),
        number(row.ratio, 2),
        number(row.tokens_per_s, 1),
        "-" if row.share_of_limit is None else f"{row.share_of_limit:.0%}",
        number(row.peak_gb, 2),
        number(row.baseline_peak_gb, 2),
        {True: "yes", False: "no", None: "-"}[row.meets],
    )


def _limits(measured: list[Limits]) -> list[str]:
    if not measured:
        return ["not measured"]
    each = ", ".join(f"{one.bytes_per_s / 1e9:.1f}" for one in measured)
    told = [f"reads {each} GB/s (before, between and after the works)"]
    rates = mean(measured).flops_per_s
    return [*told, "products " + ", ".join(f"{kind} {rate / 1e9:.0f}" for kind, rate in rates.items()) + " GFLOP/s"]
