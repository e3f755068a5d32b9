"""Load from wrk, in its own process: many URLs in turn, signed where the server checks."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import boto3
from botocore.config import Config

_RATE = r"Requests/sec:\s+([\d.]+)([KMG]?)", {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
_MEDIAN = r"\s50%\s+([\d.]+)(us|ms|s|m)\s", {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
"""What wrk says, and its units."""
_SCRIPT = """
local paths = {{}}
for line in io.lines("{paths}") do paths[#paths + 1] = line end
local body = nil
if "{body}" ~= "" then body = io.open("{body}", "rb"):read("*a") end
local turn = math.random(#paths)
local bad = 0
function request()
  turn = turn % #paths + 1
  return wrk.format("{method}", paths[turn], nil, body)
end
function response(status) if status >= 300 then bad = bad + 1 end end
"""


def presigned(
    url: str, key: str, secret: str, bucket: str, names: list[str], method: str
) -> list[str]:
    """Paths with presigned queries for each name."""
    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    operation = {"GET": "get_object", "PUT": "put_object"}[method]
    return [
        client.generate_presigned_url(
            operation, Params={"Bucket": bucket, "Key": name}, ExpiresIn=86400
        ).removeprefix(url)
        for name in names
    ]


def wrk(
    url: str,
    paths: list[str],
    work: Path,
    *,
    connections: int,
    seconds: int,
    body: Path | None = None,
    headers: Sequence[str] = (),
    by_median: bool = False,
) -> float:
    """Requests per second; RuntimeError when any answer was not a success. body: of PUTs; without
    one they are GETs. by_median: as many as one connection has in a second if each takes what half
    of them take at the most (1 / p50)."""
    listing = work / f"paths-{os.getpid()}.txt"
    listing.write_text("\n".join(paths) + "\n")
    script = work / f"load-{os.getpid()}.lua"
    method = "PUT" if body else "GET"
    script.write_text(_SCRIPT.format(paths=listing, body=body or "", method=method))
    more = [argument for header in headers for argument in ("-H", header)]
    done = subprocess.run(
        [
            "wrk",
            *more,
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            "30s",
            "--latency",
            "-s",
            script,
            url,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(" ".join(done.stdout.split())[-200:])
    pattern, units = _MEDIAN if by_median else _RATE
    found = re.search(pattern, done.stdout)
    if found is None:
        raise RuntimeError(f"wrk says: {done.stdout[-200:]}")
    figure = float(found[1]) * units[found[2]]
    return 1 / figure if by_median else figure
