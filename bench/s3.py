"""S3 marks of reading: cached GETs and listings beside nginx and rclone serve s3."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from bench import load, servers
from bench.rounds import Row, measure
from tests.support.node import RunningNode, running_node

KIB = 1 << 10
MIB = 1 << 20
_COUNT = {4 * KIB: 256, MIB: 64, 64 * MIB: 4}
_NAME = {4 * KIB: "4 KiB", MIB: "1 MiB", 64 * MIB: "64 MiB"}


@dataclass
class Contender:
    url: str
    key: str = ""
    secret: str = ""
    settle: Callable[[], object] = lambda: None
    """Let what was written come to rest, so that it costs nobody else's turn."""

    def paths(self, names: list[str], method: str) -> list[str]:
        if not self.key:
            return [f"/{name}" for name in names]
        return load.presigned(self.url, self.key, self.secret, "bucket", names, method)


def _client(contender: Contender) -> Any:
    """boto3 makes its clients' classes at run time."""
    return boto3.client(
        "s3",
        endpoint_url=contender.url,
        aws_access_key_id=contender.key,
        aws_secret_access_key=contender.secret,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


@contextmanager
def contenders(
    work: Path, gateways: int, counts: Mapping[int, int]
) -> Iterator[dict[str, Contender]]:
    """Forebay (keys checked, write_back), nginx, rclone serve s3, with the same objects: so many
    of each size."""
    with ExitStack() as stack:
        node = stack.enter_context(
            running_node(
                work / "forebay",
                **servers.node_settings(work / "forebay"),
                auth={"mode": "sigv4"},
                node={"gateways": gateways},
                mount=None,
            )
        )
        key = _make_key(node)
        found = {
            "forebay": Contender(node.endpoint, *key, settle=lambda: node.forebay("flush")),
            "nginx": Contender(stack.enter_context(servers.nginx(work / "nginx"))),
            "rclone": Contender(
                stack.enter_context(servers.rclone_s3(work / "rclone")), "bench", "benchsecret"
            ),
        }
        _client(found["forebay"]).create_bucket(Bucket="bucket")
        for size, count in counts.items():
            body = os.urandom(size)
            for number in range(count):
                name = f"{size}-{number}"
                (work / "nginx" / "files" / name).write_bytes(body)
                for contender in ("forebay", "rclone"):
                    _client(found[contender]).put_object(Bucket="bucket", Key=name, Body=body)
        yield found


def _make_key(node: RunningNode) -> tuple[str, str]:
    made = json.loads(node.forebay("keys", "create", "bench", "--json").stdout)
    return made["access_key"], made["secret_key"]


def run(work: Path, rounds: int, seconds: int, gateways: int) -> list[Row]:
    rows = []
    with contenders(work, gateways, _COUNT) as found:
        for size, connections in (
            (4 * KIB, 1),
            (4 * KIB, 8),
            (4 * KIB, 64),
            (MIB, 8),
            (64 * MIB, 8),
        ):
            names = [f"{size}-{number}" for number in range(_COUNT[size])]
            rows.append(
                measure(
                    f"GET {_NAME[size]}, {connections} conn",
                    "/s",
                    "nginx",
                    {
                        name: partial(
                            load.wrk,
                            contender.url,
                            contender.paths(names, "GET"),
                            work,
                            connections=connections,
                            seconds=seconds,
                        )
                        for name, contender in found.items()
                    },
                    rounds,
                )
            )
        rows.append(_list_row(found, rounds))
    return rows


def _list_row(found: dict[str, Contender], rounds: int) -> Row:
    def run(contender: Contender) -> float:
        client = _client(contender)
        start = time.perf_counter()
        for _ in range(20):
            client.list_objects_v2(Bucket="bucket", MaxKeys=1000)
        return 20 / (time.perf_counter() - start)

    runs = {name: partial(run, found[name]) for name in ("forebay", "rclone")}
    return measure("LIST up to 1,000 (boto3)", "/s", "rclone", runs, rounds)
