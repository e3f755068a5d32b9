# ruff: noqa: T201  a program that talks
"""Run ceph's s3-tests, unmodified, against a node of its own, and print how it went.

`script/conformance s3 CHECKOUT` runs this with the checkout of ceph/s3-tests and the Python that
has the suite's requirements. The node has its default configuration, in a temporary directory and
on a port that is free, and beside that the users that the suite wants to be told of and the clock
for tests of lifecycle rules. Everything left of a run is in `.conformance/` of the clone.

The exit code says whether the suite ran, not whether its tests pass.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3

from tests.support.conformance import LEFT, ROOT
from tests.support.conformance.s3_table import Outcome, category_of, count, failures, table
from tests.support.node import RunningNode, running_node

TEST_TIMEOUT_S = 60
FILES = ("test_s3.py", "test_headers.py")
_NO_TESTS = 5  # pytest: nothing was selected

_DEFAULT_CACHE = {"capacity_bytes": None, "segment_bytes": None, "index_bytes": None}
"""What tests make small is as a node has it by default."""

_TEST_CLOCK = {"lifecycle_day_s": 5}
"""The suite waits for up to 10 days of lifecycle rules, and 60 s for a test."""

USERS = {
    # section of the suite's configuration: user
    "s3 main": "tester",
    "s3 alt": "alternative",
    "s3 tenant": "tenanted",
    "iam": "iam",
    "iam root": "iamroot",
    "iam alt root": "iamaltroot",
}

KMS_KEYS = {"kms_keyid": "conformance-1", "kms_keyid2": "conformance-2"}
"""Keys of SSE-KMS that the node is given, by the setting of the suite that names them."""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the node, as the suite has to know them."""

    name: str
    access_key: str
    secret_key: str
    user_id: str
    display_name: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/conformance s3", description=__doc__)
    parser.add_argument("checkout", type=Path, help="the directory the suite was checked out into")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there, too")
    parser.add_argument("--python", type=Path, required=True, help=argparse.SUPPRESS)
    arguments, to_pytest = parser.parse_known_args()
    checkout = arguments.checkout.resolve()
    missing = [name for name in FILES if not (_functional(checkout) / name).exists()]
    if missing:
        parser.error(f"{checkout} is no checkout of ceph/s3-tests: {missing[0]} is not there")
    LEFT.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="forebay-conformance-") as directory,
        running_node(Path(directory), cache=_DEFAULT_CACHE, node=None, s3=_TEST_CLOCK) as node,
    ):
        try:
            users = {section: make_user(node, name) for section, name in USERS.items()}
            for key_id in KMS_KEYS.values():
                node.forebay("kms", "create", key_id)
            config = LEFT / "s3-tests.conf"
            write_config(config, node.endpoint, users)
            code = run_suite(arguments.python, checkout, config, to_pytest)
        finally:
            (LEFT / "node.log").write_text(node.log)
        unexpected = node.log.count("Traceback (most recent call last)")
    if code not in (0, 1):
        sys.exit(f"conformance: the suite did not run: pytest ended with {code}")
    outcomes = read_outcomes(LEFT / "outcomes.jsonl")
    report(outcomes, unexpected)
    if arguments.json is not None:
        write_json(arguments.json, checkout, outcomes, to_pytest, unexpected)


def _functional(checkout: Path) -> Path:
    return checkout / "s3tests" / "functional"


# ------------------------------------------------------------------------------------- the node


def make_user(node: RunningNode, name: str) -> User:
    """A new user with a key; what S3 calls them is asked of the node itself."""
    display_name = f"{name} of the suite"
    node.forebay("users", "create", name, "--display-name", display_name, "--email", _email(name))
    key = json.loads(node.forebay("keys", "create", name, "--json").stdout)
    client = boto3.client(
        "s3",
        endpoint_url=node.endpoint,
        aws_access_key_id=key["access_key"],
        aws_secret_access_key=key["secret_key"],
        region_name="us-east-1",
    )
    owner = client.list_buckets()["Owner"]
    return User(
        name,
        key["access_key"],
        key["secret_key"],
        owner["ID"],
        owner.get("DisplayName", name),
    )


def _email(name: str) -> str:
    return f"{name}@example.com"


def write_config(path: Path, endpoint: str, users: Mapping[str, User]) -> None:
    """The suite's configuration: every section of its sample that a node without a cloud tier
    and without an identity provider has."""
    address = urlsplit(endpoint)
    config = configparser.RawConfigParser()
    config["DEFAULT"] = {
        "host": str(address.hostname),  # an address, not a name: then boto3 uses path style
        "port": str(address.port),
        "is_secure": "False",
        "ssl_verify": "False",
    }
    config["fixtures"] = {
        "bucket prefix": "conformance-{random}-",
        "iam name prefix": "conformance-",
        "iam path prefix": "/conformance/",
    }
    for section, user in users.items():
        config[section] = {
            "display_name": user.display_name,
            "user_id": user.user_id,
            "email": _email(user.name),
            "access_key": user.access_key,
            "secret_key": user.secret_key,
        }
    config["s3 main"]["api_name"] = "us-east-1"
    config["s3 main"]["lc_debug_interval"] = str(_TEST_CLOCK["lifecycle_day_s"])
    config["s3 main"].update(KMS_KEYS)
    config["s3 tenant"]["tenant"] = "tenant"
    with path.open("w") as file:
        config.write(file)


# ------------------------------------------------------------------------------------ the suite


def run_suite(python: Path, checkout: Path, config: Path, to_pytest: list[str]) -> int:
    """pytest's exit code. Its outcomes are in .conformance/outcomes.jsonl."""
    outcomes = LEFT / "outcomes.jsonl"
    outcomes.write_text("")
    environment = {
        **os.environ,
        "S3TEST_CONF": str(config),
        "CONFORMANCE_OUTCOMES": str(outcomes),
        "PYTHONPATH": str(ROOT),  # for the plugin; the suite is found from its directory
        "PYTHONDONTWRITEBYTECODE": "1",
        # Whatever account this machine is set up for, the suite is to use its own.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    environment.pop("PYTHONSAFEPATH", None)
    code = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            *(_functional(checkout) / name for name in FILES),
            *("-p", "tests.support.conformance.s3_outcomes", "-p", "no:cacheprovider"),
            *(f"--timeout={TEST_TIMEOUT_S}", "-q", "--tb=no", "--no-header", "--no-summary"),
            *to_pytest,
        ],
        cwd=checkout,
        env=environment,
        check=False,
    ).returncode
    return 0 if code == _NO_TESTS else code


def read_outcomes(path: Path) -> list[Outcome]:
    outcomes = []
    for line in path.read_text().splitlines():
        test = json.loads(line)
        name = test["id"].rpartition("/")[2]
        category = category_of(test["id"], test["marks"])
        outcomes.append(
            Outcome(name, test["outcome"], test["error"], test["fails_on_aws"], category)
        )
    return outcomes


def report(outcomes: list[Outcome], unexpected: int) -> None:
    print("\nTests that fail:\n")
    print("\n".join(failures(outcomes)) or "none")
    print()
    print("\n".join(table(outcomes)))
    print(f"\nUnexpected exceptions in the node's log (.conformance/node.log): {unexpected}")


def write_json(
    path: Path,
    checkout: Path,
    outcomes: list[Outcome],
    to_pytest: list[str],
    unexpected: int,
) -> None:
    commit = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    selected = [each for each in outcomes if not each.fails_on_aws]
    document = {
        "suite": {"name": "ceph/s3-tests", "commit": commit, "arguments": to_pytest},
        "all": asdict(count(outcomes)),
        "not_fails_on_aws": asdict(count(selected)),
        "unexpected_exceptions": unexpected,
        "tests": [asdict(each) for each in outcomes],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
