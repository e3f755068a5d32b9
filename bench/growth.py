"""S5, S10 and S12: what a node of many objects costs beside one of few.

One node for each size, with two gateways and a mount, all in one sitting: first each is started, a
few times, then all run at once and answer in turn. Requests go the whole way, through a gateway,
and their answers are read but not parsed: parsing costs the client the same for each.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bench import chart, filling, load, memory
from bench.rounds import Row, measure
from node.config import load as load_config
from s3api.documents import read_document
from s3api.model import MODEL, Member
from s3api.serialising import write_body
from tests.support.node import RunningNode, end_node, restart_node, write_config
from tests.support.s3_raw import AUTHORIZATION, RawS3

BUCKET = "bucket"
PAGE = 1000
_HEADS = 400  # of each node in a round
_PAGES = 10
_LIST = Member("", "ListBucketResult", "ListObjectsV2Output", "", False, False)
_SHAPES = {"flat": "", "flat, delimiter": "/", "tree": "", "tree, delimiter": "/"}
_KIB, _MIB = 1 << 10, 1 << 20


class Home:
    """A node's directory, with its bucket in the index."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir()
        self.directory = directory
        self.count = count
        self.name = f"{count:,} objects"
        self.config_file = write_config(directory, filling.node_settings(directory))
        begun = time.perf_counter()
        self.bytes_each = filling.fill(load_config(self.config_file), BUCKET, count)
        print(f"{self.name}: filled in {time.perf_counter() - begun:.0f} s")

    def start(self) -> RunningNode:
        return restart_node(self.directory, self.config_file)

    def forget_pages(self) -> None:
        """Drop the index from the kernel's page cache, as after a boot. No process has it open."""
        descriptor = os.open(self.directory / "state" / "index" / "data.mdb", os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def run(work: Path, sizes: Sequence[int], rounds: int, seconds: int, drawn: Path) -> list[Row]:
    """drawn: where the chart goes."""
    homes = [Home(work / str(count), count) for count in sizes]
    rows = [_row("index, an object of 1 extent", "B", {h.name: h.bytes_each for h in homes})]
    rows += _starts(homes, rounds)
    with ExitStack() as stack:
        nodes = {home: stack.enter_context(_serving(home)) for home in homes}
        rows += _requests(nodes, rounds)
    rows += _memory(homes, seconds)
    chart.write(drawn, "Growth", _panels(rows, homes))
    return rows


def _row(name: str, unit: str, figures: Mapping[str, float]) -> Row:
    """Of what is no median of rounds."""
    return Row(name, unit, next(iter(figures), ""), dict(figures))


@contextmanager
def _serving(home: Home) -> Iterator[RunningNode]:
    node = home.start()
    try:
        yield node
    finally:
        end_node(node)


# ---------------------------------------------------------------------------------------- S12


def _starts(homes: list[Home], rounds: int) -> list[Row]:
    works: dict[str, Callable[[Home], float]] = {
        "start, index not in memory": _start_cold,
        "start after kill -9 of all": _start_after_kill,
    }
    return [
        measure(
            name, "s", homes[0].name, {home.name: partial(start, home) for home in homes}, rounds
        )
        for name, start in works.items()
    ]


def _start_cold(home: Home) -> float:
    home.forget_pages()
    took_s, node = _start(home)
    end_node(node)
    return took_s


def _start_after_kill(home: Home) -> float:
    """With PUTs under way and things to persist."""
    with _serving(home) as node:
        with RawS3(node.endpoint) as s3:
            for number in range(50):
                s3.put(BUCKET, f"killed-{number}", bytes(8 * _KIB))
        pids = [*node.pids.values(), *node.status()["spares"].values()]
        for pid in pids:
            with suppress(ProcessLookupError):  # the supervisor's end takes the others along
                os.kill(pid, signal.SIGKILL)
        node.process.wait()
        took_s, again = _start(home)
        end_node(again)
    return took_s


def _start(home: Home) -> tuple[float, RunningNode]:
    """Seconds from the command to the first answer, which is about one of its objects."""
    begun = time.perf_counter()
    node = home.start()
    with RawS3(node.endpoint) as s3:
        assert s3.size(BUCKET, filling.some_key(home.count, random.Random(1)))
        assert node.mount is None or (node.mount / BUCKET).is_dir()
    return time.perf_counter() - begun, node


# ----------------------------------------------------------------------------------------- S5


def _requests(nodes: Mapping[Home, RunningNode], rounds: int) -> list[Row]:
    reference = next(iter(nodes)).name
    for home, node in nodes.items():
        _warm(home, node)
    with ExitStack() as stack:
        clients = {home: stack.enter_context(RawS3(node.endpoint)) for home, node in nodes.items()}
        rows = [
            measure(
                "HEAD, p50",
                "ms",
                reference,
                {home.name: partial(_head, home, node) for home, node in nodes.items()},
                rounds,
            )
        ]
        for shape in _SHAPES:
            rows += _lists(clients, shape, rounds)
    return rows


def _lists(clients: Mapping[Home, RawS3], shape: str, rounds: int) -> list[Row]:
    """Pages of a shape, and in the same rounds the making of their documents alone."""
    works: dict[str, Callable[[], float]] = {}
    for home, s3 in clients.items():
        works[home.name] = partial(_list, s3, shape, home.count)
        works[f"{home.name}, alone"] = _serialiser(s3, shape, home.count)
    reference = next(iter(works))
    row = measure(f"LIST of {PAGE:,}, {shape}", "ms", reference, works, rounds)
    alone = {
        home.name: row.figures.pop(f"{home.name}, alone")
        for home in clients
        if home.name in row.figures  # that of the document alone cannot fail
    }
    over = {name: row.figures[name] / alone[name] for name in alone}
    return [
        row,
        _row(f"serialising that, {shape}", "ms", alone),
        _row(f"LIST over serialising, {shape}", "x", over),
    ]


def _warm(home: Home, node: RunningNode) -> None:
    """The index into memory, as far as there is room for it."""
    with (node.state_dir / "index" / "data.mdb").open("rb", buffering=0) as index:
        room = bytearray(4 * _MIB)
        while index.readinto(room):
            pass
    _head(home, node)


def _head(home: Home, node: RunningNode) -> float:
    """Median time of one, in ms: over a socket, since a client's own work would hide growth."""
    chance = random.Random()
    address = urlsplit(node.endpoint)
    taken = []
    with socket.create_connection((str(address.hostname), address.port or 80), 60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_HEADS):
            key = filling.some_key(home.count, chance)
            head = f"HEAD /{BUCKET}/{key} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            request = f"{head}Authorization: {AUTHORIZATION}\r\n\r\n".encode()
            begun = time.perf_counter()
            client.sendall(request)
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += client.recv(65536) or b"\r\n\r\n"
            taken.append(time.perf_counter() - begun)
            assert answer.startswith(b"HTTP/1.1 200"), answer
    return statistics.median(taken) * 1e3


def _page(s3: RawS3, shape: str, count: int, chance: random.Random) -> bytes:
    """A page, from somewhere in its half of the bucket."""
    half = count // 2
    query = {"list-type": "2", "max-keys": str(PAGE)}
    if "delimiter" in shape:
        query["delimiter"] = "/"
    number = chance.randrange(half - PAGE)
    if shape.startswith("flat"):
        query["start-after"] = filling.flat_key(number).decode()
    elif query.get("delimiter") is None:
        query["start-after"] = filling.tree_key(number, half)[0].decode()
    answer = s3.request("GET", f"/{BUCKET}", query=query)
    return answer.expect(200).body


def _list(s3: RawS3, shape: str, count: int) -> float:
    """Time of one page, in ms."""
    chance = random.Random(count)
    begun = time.perf_counter()
    for _ in range(_PAGES):
        body = _page(s3, shape, count, chance)
        found = body.count(b"<Key>") + body.count(b"<CommonPrefixes>")
        assert found == PAGE, found
    return (time.perf_counter() - begun) / _PAGES * 1e3


def _serialiser(s3: RawS3, shape: str, count: int) -> Callable[[], float]:
    """Makes the document of such a page again, out of what it says; the time, in ms."""
    document = _page(s3, shape, count, random.Random(count))
    output = read_document(document, _LIST)
    for entry in output.get("Contents", ()):
        moment = datetime.fromisoformat(entry["LastModified"])
        entry["LastModified"] = round(moment.timestamp() * 1000) * 1_000_000
    operation = MODEL.operations["ListObjectsV2"]

    def run() -> float:
        made: bytes | None = None
        begun = time.perf_counter()
        for _ in range(_PAGES):
            made = write_body(operation, output)
        took_s = time.perf_counter() - begun
        assert made == document
        return took_s / _PAGES * 1e3

    return run


# ---------------------------------------------------------------------------------------- S10


def _memory(homes: list[Home], seconds: int) -> list[Row]:
    """Each node alone, under the load of S1 to S4."""
    most = {}
    for home in homes:
        with _serving(home) as node:
            requests = _load(home, node)
            with memory.most(node) as samples:
                for run in requests:
                    run(seconds=seconds)
            most[home.name] = samples[0]
    rows = [_row("memory, in all", "MiB", {name: t.total / _MIB for name, t in most.items()})]
    for process in next(iter(most.values())).own:
        figures = {name: t.own[process] / _MIB for name, t in most.items()}
        rows.append(_row(f"memory, {process}", "MiB", figures))
    spares = {name: sum(t.spares.values()) / _MIB for name, t in most.items()}
    index = {name: t.index / _MIB for name, t in most.items()}
    rows.append(_row("memory, spares beside these", "MiB", spares))
    rows.append(_row("memory, pages of the index", "MiB", index))
    return rows


def _load(home: Home, node: RunningNode) -> list[Callable[..., float]]:
    """The kinds of load, one after the other."""
    directory = home.directory
    chance = random.Random(1)
    paths = {5 * _KIB: [f"/{BUCKET}/{filling.some_key(home.count, chance)}" for _ in range(5000)]}
    with RawS3(node.endpoint) as s3:
        for size, count in ((_MIB, 32), (64 * _MIB, 2)):
            body = os.urandom(size)
            for number in range(count):
                s3.put(BUCKET, f"load-{size}-{number}", body)
            paths[size] = [f"/{BUCKET}/load-{size}-{number}" for number in range(count)]
    wrk = partial(
        load.wrk, node.endpoint, work=directory, headers=[f"Authorization: {AUTHORIZATION}"]
    )
    requests: list[Callable[..., float]] = [
        partial(wrk, paths[size], connections=connections)
        for size, connections in ((5 * _KIB, 64), (_MIB, 8), (64 * _MIB, 8))
    ]
    for size, connections in ((4 * _KIB, 32), (64 * _MIB, 8)):
        body_file = directory / f"body-{size}"
        body_file.write_bytes(os.urandom(size))
        names = [f"/{BUCKET}/put-{size}-{number}" for number in range(64 if size < _MIB else 4)]
        requests.append(partial(wrk, names, connections=connections, body=body_file))
    return requests


# --------------------------------------------------------------------------------------- chart


def _panels(rows: list[Row], homes: list[Home]) -> list[chart.Panel]:
    def series(*prefixes: str) -> dict[str, list[tuple[int, float]]]:
        """The rows that begin so, by what they are called behind it."""
        return {
            row.name.removeprefix(prefix).strip(" ,") or row.name: [
                (home.count, row.figures[home.name]) for home in homes if home.name in row.figures
            ]
            for prefix in prefixes
            for row in rows
            if row.name.startswith(prefix)
        }

    memory_of = series("memory")
    for name in ("gateway-1", "pages of the index"):  # as the other one; and no process's own
        del memory_of[name]
    return [
        chart.Panel("HEAD, ms (median)", series("HEAD")),
        chart.Panel(f"LIST of {PAGE:,}, ms", series(f"LIST of {PAGE:,}")),
        chart.Panel("LIST over serialising its answer", series("LIST over serialising"), 5),
        chart.Panel("Start of the node, s", series("start"), 2),
        chart.Panel("Memory of the processes under load, MiB", memory_of, 400),
        chart.Panel("Index, bytes for each object", series("index"), 600),
    ]
