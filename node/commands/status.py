"""`forebay status`: is the node well, and what is it busy with."""

from __future__ import annotations

from typing import Any

import typer

from cache.volume import Volume
from node import control
from node.commands.options import (
    ConfigOption,
    JsonOption,
    human_bytes,
    human_seconds,
    print_json,
    print_table,
)
from node.config import NodeConfig, load
from node.draining import as_facts
from node.errors import ExitCode, OperatorError
from node.volumes import existing_volume


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show processes, endpoint, mount, use of the cache, and what waits for the stores.

    Exit code 4 when the node does not run; what is on disk is shown all the same.

    Example: `forebay status --json`
    """
    settings = load(config)
    node, absent = _ask(settings)
    with existing_volume(settings) as volume:
        cache = _cache(volume)
        queue = as_facts(volume.queue.backlog())
    stores = {
        name: {"type": store.type, "location": store.location, "creatable": store.creatable}
        for name, store in settings.stores.items()
    }
    if as_json:
        print_json({"node": node, "cache": cache, "queue": queue, "stores": stores})
    else:
        typer.echo(_node_text(node, absent))
        typer.echo(_cache_text(cache, queue))
        for name, store in stores.items():
            typer.echo(f"store     {name}: {store['location']}")
        if node is not None:
            typer.echo("")
            _print_processes(node)
    if node is None:
        raise typer.Exit(ExitCode.NOT_RUNNING)


def _ask(settings: NodeConfig) -> tuple[dict[str, Any] | None, str]:
    """The supervisor's answer, or why there is none."""
    try:
        return control.ask(settings.cache.run_dir, "status"), ""
    except OperatorError as exc:
        return None, str(exc)


def _cache(volume: Volume) -> dict[str, Any]:
    return {
        "capacity_bytes": volume.segments.capacity_bytes,
        "used_bytes": volume.reclaimer.used_bytes(),
        "dirty_soft_bytes": volume.admission.soft_bytes,
        "dirty_hard_bytes": volume.admission.hard_bytes,
        "index_used_bytes": volume.index.used_bytes(),
        "index_limit_bytes": volume.config.cache.index_bytes,
    }


def _node_text(node: dict[str, Any] | None, absent: str) -> str:
    if node is None:
        return f"node      {absent}"
    mount = node["mount"] or f"none: {node['mount_absent']}"
    endpoint = "none: s3.enabled is false"
    if node["endpoint"]:
        endpoint = f"{node['endpoint']} (auth: {node['auth']})"
    return "\n".join(
        (
            f"node      {node['state']}, up {human_seconds(node['uptime_s'])}",
            f"endpoint  {endpoint}",
            f"mount     {mount}",
        )
    )


def _cache_text(cache: dict[str, Any], queue: dict[str, Any]) -> str:
    used, capacity = cache["used_bytes"], cache["capacity_bytes"]
    index, limit = cache["index_used_bytes"], cache["index_limit_bytes"]
    lines = [
        f"cache     {human_bytes(used)} of {human_bytes(capacity)} ({100 * used / capacity:.0f}%)",
        f"index     {human_bytes(index)} of {human_bytes(limit)}",
    ]
    if queue["names"]:
        lines.append(
            f"queue     {queue['names']} names, {human_bytes(queue['bytes'])} dirty "
            f"(slowed from {human_bytes(cache['dirty_soft_bytes'])}, refused from "
            f"{human_bytes(cache['dirty_hard_bytes'])}), "
            f"oldest {human_seconds(queue['oldest_s'])}"
        )
    else:
        lines.append("queue     empty: the stores have everything")
    lines += [f"  failed  {failed['name']}: {failed['error']}" for failed in queue["errors"]]
    return "\n".join(lines)


def _print_processes(node: dict[str, Any]) -> None:
    print_table(
        ("PROCESS", "STATE", "PID", "RESTARTS", "LAST END"),
        (
            (
                process["name"],
                process["state"],
                str(process["pid"] or ""),
                str(process["restarts"]),
                process["last_end"],
            )
            for process in node["processes"]
        ),
    )
