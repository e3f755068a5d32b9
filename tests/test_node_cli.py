"""The commands through the real console script: answers and exit codes, without a node and with."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.records import ObjectAttributes, WriteMode
from cache.users import User
from node.commands import own_secret
from node.commands.names import hidden_keys
from node.commands.options import human_bytes, human_seconds
from node.commands.paths import Target, parse
from node.config import load
from node.errors import ExitCode, OperatorError
from node.volumes import open_volume
from tests.support.node import FOREBAY, RunningNode, running_node, write_config

COMMANDS = [
    "serve", "check-config", "status", "flush", "stat", "fsck", "names",
    "s3 getsecret", "s3 revokesecret",
    "keys create", "keys revoke", "keys list",
    "kms create", "kms rotate", "kms list",
    "buckets list", "buckets create", "buckets add", "buckets link", "buckets delete",
    "volumes list",
    "users create", "users list", "users show", "users change", "users delete",
    "users set-policy", "users drop-policy", "groups set-policy", "groups drop-policy",
    "groups create", "groups list", "groups show", "groups delete", "groups add", "groups remove",
]  # fmt: skip


def forebay(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FOREBAY, *arguments, "--config", config],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def answer(config: Path, *arguments: str, code: ExitCode = ExitCode.DONE) -> dict[str, Any]:
    """The one JSON object that the command prints."""
    done = forebay(config, *arguments, "--json")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def put(config: Path, bucket: str, key: bytes, body: bytes) -> None:
    """An object, put as the S3 door does it."""
    with open_volume(load(config)) as volume:
        writer = volume.objects.writer(bucket, key, size_bytes=len(body))
        writer.write(body)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        writer.commit(etag=etag, attributes=ObjectAttributes(content_type="text/plain"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a node that does not run."""
    return write_config(tmp_path, {"stores": {"main": {
        "type": "posix", "path": str(tmp_path / "store"), "creatable": True,
        "write_mode": "write_back",
    }}})  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(command: str) -> None:
    done = subprocess.run(
        [FOREBAY, *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
    )
    assert f"forebay {command}" in done.stdout.partition("Example:")[2]
    assert "--json" in done.stdout
    assert "--config" in done.stdout


def test_the_shell_completes_commands() -> None:
    done = subprocess.run(
        [FOREBAY],
        capture_output=True,
        text=True,
        check=True,
        env={
            "_FOREBAY_COMPLETE": "complete_bash",
            "COMP_WORDS": "forebay ch",
            "COMP_CWORD": "1",
            "PATH": "/usr/bin:/bin",
        },
    )
    assert done.stdout.split() == ["check-config"]


@pytest.mark.parametrize(
    ("loads", "spared"),
    [
        ("from node import cli; cli.make_app()", "s3api.model"),
        ("from node import cli; cli.make_app('serve'); import node.supervisor", "cache.index rich"),
        ("import node.child, s3api.gateway", "botocore.loaders jwt trio"),
        ("import node.child, node.mover", "botocore s3api.model trio"),
        ("import node.child, fuse.mount", "botocore s3api.model aiohttp"),
    ],
    ids=["command", "supervisor", "gateway", "mover", "mount"],
)
def test_processes_do_not_load_what_only_others_need(loads: str, spared: str) -> None:
    """Each module costs all processes of its role memory, and the node some of the two seconds in
    which it is to serve."""
    ask = f"{loads}; import sys; print(*sys.modules.keys() & set({spared.split()}))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_exit_codes_are_documented() -> None:
    done = subprocess.run([FOREBAY, "--help"], capture_output=True, text=True, check=True)
    for code in ExitCode:
        assert f"{code.value}: " in done.stdout


def test_a_mistake_in_the_configuration_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[cache]\nstate_dri = "x"\n')
    done = forebay(file, "check-config")
    assert done.returncode == ExitCode.CONFIGURATION
    assert done.stderr.startswith(f"forebay: {file}: [cache] state_d")
    assert len(done.stderr.splitlines()) == 1
    assert answer(file, "check-config", code=ExitCode.CONFIGURATION)["code"] == 3


def test_check_config_prints_what_it_amounts_to_and_hides_secrets(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("wJalrXUtnFEMI")
    secret.chmod(0o600)
    file = write_config(
        tmp_path,
        {
            "stores": {
                "far": {
                    "type": "s3",
                    "bucket": "b",
                    "access_key": "AKIA",
                    "secret_key_file": str(secret),
                }
            }
        },
    )
    done = forebay(file, "check-config")
    assert done.returncode == ExitCode.DONE, done.stderr
    assert 'secret_key = "***"' in done.stdout
    assert "high_watermark = 0.9" in done.stdout
    assert "wJalrXUtnFEMI" not in done.stdout + done.stderr
    assert answer(file, "check-config")["config"]["stores"]["far"]["secret_key"] == "***"


def test_keys_are_made_listed_and_revoked_without_a_node(config: Path) -> None:
    made = answer(config, "keys", "create", "alice")
    assert made["user"] == "alice"
    listed = answer(config, "keys", "list")["keys"]
    assert [(k["access_key"], k["user"]) for k in listed] == [(made["access_key"], "alice")]
    assert made["secret_key"] not in forebay(config, "keys", "list").stdout
    answer(config, "keys", "revoke", made["access_key"])
    assert answer(config, "keys", "list") == {"keys": []}
    again = answer(config, "keys", "revoke", made["access_key"], code=ExitCode.FAILED)
    assert "no such access key" in again["error"]


def test_a_secret_as_ozone_gives_it(config: Path) -> None:
    principal = "testuser/scm@EXAMPLE.COM"
    lines = forebay(config, "s3", "getsecret", "-u", principal).stdout.splitlines()
    assert lines[0] == f"awsAccessKey={principal}"
    assert re.fullmatch("awsSecret=[0-9a-f]{64}", lines[1])
    again = answer(config, "s3", "getsecret", "-u", principal, code=ExitCode.FAILED)
    assert "shown once" in again["error"]
    assert lines[1].partition("=")[2] not in again["error"]
    (key,) = answer(config, "keys", "list")["keys"]
    assert (key["access_key"], key["user"]) == (principal, principal)
    own = answer(config, "s3", "getsecret")
    assert own["awsAccessKey"] == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize(("said", "revoked"), [("y\n", True), ("n\n", False), ("", False)])
def test_a_secret_is_revoked_after_a_question(config: Path, said: str, revoked: bool) -> None:
    with open_volume(load(config)) as volume:
        volume.keys.create_named("alice")
    done = subprocess.run(
        [FOREBAY, "s3", "revokesecret", "-u", "alice", "--config", config],
        input=said,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "Enter 'y' to confirm S3 secret revocation for 'alice'" in done.stderr
    assert (done.returncode == 0) == revoked
    assert ("S3 secret revoked." in done.stdout) == revoked
    with open_volume(load(config)) as volume:
        assert (volume.keys.get("alice") is None) == revoked


def test_a_secret_is_revoked_without_a_question(config: Path) -> None:
    answer(config, "s3", "getsecret", "-u", "alice")
    assert answer(config, "s3", "revokesecret", "-y", "-u", "alice") == {"revoked": "alice"}
    missing = answer(config, "s3", "revokesecret", "-y", "-u", "alice", code=ExitCode.FAILED)
    assert "no such access key" in missing["error"]


def test_only_administrators_have_to_do_with_the_secrets_of_others(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(config)
    somebody = pwd.getpwnam("nobody")
    with open_volume(settings) as volume:
        assert own_secret.whose("other", settings, volume) == "other"
        monkeypatch.setattr(os, "getuid", lambda: somebody.pw_uid)
        assert own_secret.whose(None, settings, volume) == "nobody"
        with pytest.raises(OperatorError):
            own_secret.whose("other", settings, volume)
        volume.users.create(User("nobody", admin=True))
        assert own_secret.whose("other", settings, volume) == "other"


def test_master_keys_are_made_rotated_and_listed(config: Path) -> None:
    assert answer(config, "kms", "create", "backups") == {"key": "backups", "version": 1}
    assert answer(config, "kms", "rotate", "backups") == {"key": "backups", "version": 2}
    [key] = answer(config, "kms", "list")["keys"]
    assert (key["key"], key["versions"]) == ("backups", 2)
    assert key["created"] <= key["rotated"]  # shown in whole seconds
    assert "backups" in forebay(config, "kms", "list").stdout
    again = answer(config, "kms", "create", "backups", code=ExitCode.FAILED)
    assert "exists already" in again["error"]
    missing = answer(config, "kms", "rotate", "other", code=ExitCode.NOT_FOUND)
    assert "no such master key" in missing["error"]


def test_a_made_key_can_be_pasted_into_a_shell(config: Path) -> None:
    lines = forebay(config, "keys", "create", "alice").stdout.splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ]


def test_buckets_are_made_listed_and_removed(config: Path) -> None:
    assert answer(config, "buckets", "create", "photos", "--owner", "alice")["store"] == "main"
    (bucket,) = answer(config, "buckets", "list")["buckets"]
    assert bucket["name"] == "photos"
    assert bucket["owner"] == "alice"
    assert bucket["write_mode"] == "write_back"
    assert bucket["configured"] is False
    put(config, "photos", b"a", b"x")
    refused = answer(config, "buckets", "delete", "photos", code=ExitCode.FAILED)
    assert refused["error"]
    taken = answer(config, "buckets", "create", "photos", code=ExitCode.FAILED)
    assert taken["error"] == "bucket exists: photos"
    missing = answer(config, "buckets", "delete", "none", code=ExitCode.NOT_FOUND)
    assert missing["error"] == "no such bucket: none"


def test_buckets_are_linked(config: Path) -> None:
    with open_volume(load(config)) as volume:
        volume.buckets.create("photos", "alice")
    assert answer(config, "buckets", "link", "photos", "pictures") == {
        "name": "pictures",
        "bucket": "photos",
    }
    listed = answer(config, "buckets", "list")
    assert [bucket["name"] for bucket in listed["buckets"]] == ["photos"]
    assert listed["links"] == [{"name": "pictures", "bucket": "photos"}]
    (shown,) = answer(config, "volumes", "list")["volumes"]
    assert shown == {"name": "s3v", "buckets": 1, "links": 1}
    assert answer(config, "buckets", "delete", "pictures") == {"deleted": "pictures"}
    listed = answer(config, "buckets", "list")
    assert (len(listed["buckets"]), listed["links"]) == (1, [])


def test_flush_without_a_node_persists_by_itself(config: Path, tmp_path: Path) -> None:
    answer(config, "buckets", "create", "photos")
    put(config, "photos", b"2024/a", b"body")
    put(config, "photos", b"2025/b", b"body")
    assert answer(config, "stat", "photos/2024/a")["state"] == "dirty"
    answer(config, "flush", "photos/2024")
    assert (tmp_path / "store/photos/2024/a").read_bytes() == b"body"
    assert answer(config, "flush")["left"] == 0
    assert (tmp_path / "store/photos/2025/b").read_bytes() == b"body"
    assert answer(config, "stat", "photos/2024/a")["state"] == "stored"


def test_flush_says_what_is_left_when_the_store_is_away(config: Path, tmp_path: Path) -> None:
    answer(config, "buckets", "create", "photos")
    answer(config, "flush")
    put(config, "photos", b"a", b"body")
    (tmp_path / "store").rename(tmp_path / "away")
    for timeout_s in ("1", "10", "60"):  # on a busy machine nobody has asked the store in a second
        left = answer(config, "flush", "--timeout", timeout_s, code=ExitCode.LEFT_OVER)
        assert left["left"] == 1
        if left["errors"]:
            break
    assert left["errors"][0]["name"] == "a"
    (tmp_path / "away").rename(tmp_path / "store")
    assert answer(config, "flush")["left"] == 0


def test_stat_describes_an_object(config: Path) -> None:
    answer(config, "buckets", "create", "photos")
    put(config, "photos", b"2024/a", b"body")
    found = answer(config, "stat", "s3://photos/2024/a")
    assert found["kind"] == "file"
    assert found["size"] == found["cached_bytes"] == 4
    assert found["etag"] == hashlib.md5(b"body", usedforsecurity=False).hexdigest()
    assert found["content_type"] == "text/plain"
    assert answer(config, "stat", "photos/2024")["kind"] == "directory"
    assert answer(config, "stat", "photos")["kind"] == "directory"
    assert "no such key" in answer(config, "stat", "photos/x", code=ExitCode.NOT_FOUND)["error"]


def test_fsck_finds_a_missing_segment(config: Path, tmp_path: Path) -> None:
    answer(config, "buckets", "create", "photos")
    put(config, "photos", b"a", b"x" * 100_000)
    sound = answer(config, "fsck", "--data")
    assert sound["problems"] == []
    assert sound["bytes_checked"] == 100_000
    (segment,) = (tmp_path / "state/segments").glob("*.seg")
    segment.unlink()
    assert answer(config, "fsck", code=ExitCode.LEFT_OVER)["problems"] != []


def test_names_lists_what_the_mount_cannot_show(config: Path) -> None:
    answer(config, "buckets", "create", "photos")
    for key in (b"a", b"a/b", b"c//d", b"plain"):
        put(config, "photos", key, b"x")
    hidden = answer(config, "names", "photos")["hidden"]
    assert {entry["key"]: entry["reason"] for entry in hidden} == {
        "a": "a directory has the same name",
        "c//d": "an empty name between slashes",
    }


@pytest.mark.parametrize(
    ("keys", "hidden"),
    [
        ([], []),
        ([b"a", b"b/c", b"d/"], []),
        ([b"a", b"a-b", b"a.c", b"a/x", b"a/y", b"ab"], [b"a"]),
        ([b"a", b"a/b", b"a/b/c", b"a/b/d"], [b"a", b"a/b"]),
        ([b"a", b"a0", b"a0/b"], [b"a0"]),
        ([b"a/", b"a/b"], []),
        ([b"../x", b"./x", b"/x"], [b"../x", b"./x", b"/x"]),
        ([b"a/../b", b"a//b"], [b"a/../b", b"a//b"]),
        ([b"x" * 255, b"y" * 256, b"z/" + b"y" * 256], [b"y" * 256, b"z/" + b"y" * 256]),
    ],
)
def test_hidden_keys(keys: list[bytes], hidden: list[bytes]) -> None:
    assert sorted(key for key, _ in hidden_keys((key, 0) for key in keys)) == hidden


def test_bytes_under_the_key_of_a_directory_are_hidden() -> None:
    assert [key for key, _ in hidden_keys([(b"a/", 5), (b"a/b", 1), (b"c/", 0)])] == [b"a/"]


@pytest.mark.parametrize("command", ["status", "flush", "fsck", "stat x"])
def test_where_no_node_ever_ran_a_command_says_so(config: Path, command: str) -> None:
    failed = answer(config, *command.split(), code=ExitCode.NOT_FOUND)
    assert "start a node with `forebay serve`" in failed["error"]
    assert not (config.parent / "state").exists()


def test_status_without_a_node_shows_what_is_on_disk(config: Path) -> None:
    answer(config, "buckets", "create", "photos")
    put(config, "photos", b"a", b"body")
    found = answer(config, "status", code=ExitCode.NOT_RUNNING)
    assert found["node"] is None
    assert found["queue"]["bytes"] >= 4
    text = forebay(config, "status")
    assert "no node is running" in text.stdout


def test_status_of_a_running_node(node: RunningNode) -> None:
    found = answer(node.config_file, "status")
    assert found["node"]["state"] == "serving"
    assert found["node"]["endpoint"] == node.endpoint
    assert {p["state"] for p in found["node"]["processes"]} == {"serving"}
    assert found["cache"]["capacity_bytes"] == 512 << 20
    assert found["stores"]["main"]["location"] == str(node.store_dir)
    text = forebay(node.config_file, "status").stdout
    assert "gateway-1" in text
    assert node.endpoint in text


def test_commands_work_beside_a_running_node(node: RunningNode) -> None:
    answer(node.config_file, "buckets", "create", "beside")
    put(node.config_file, "beside", b"a", b"body")
    if node.mount:
        assert (node.mount / "beside" / "a").read_bytes() == b"body"
        assert answer(node.config_file, "stat", f"{node.mount}/beside/a")["size"] == 4
    assert answer(node.config_file, "flush", "beside")["left"] == 0
    assert answer(node.config_file, "fsck")["problems"] == []
    assert (node.store_dir / "beside" / "a").read_bytes() == b"body"


def test_a_path_may_be_a_key_a_url_or_a_path_of_the_mount(config: Path, tmp_path: Path) -> None:
    settings = load(config)
    wanted = Target("photos", b"2024/a b")
    assert parse("photos/2024/a b", settings) == wanted
    assert parse("s3://photos/2024/a b", settings) == wanted
    assert parse(f"{tmp_path}/mnt/photos/2024/a b", settings) == wanted
    assert parse("photos", settings) == Target("photos", b"")
    assert parse("photos/dir/", settings) == Target("photos", b"dir/")
    with pytest.raises(OperatorError, match="not below the mount point"):
        parse("/etc/passwd", settings)
    with pytest.raises(OperatorError, match="not below the mount point"):
        parse(f"{tmp_path}/mnt/../etc", settings)


def test_figures_for_people() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1536, 5 << 30, 3 << 40)] == [
        "0 B", "1023 B", "1.5 KiB", "5.0 GiB", "3.0 TiB",
    ]  # fmt: skip
    assert [human_seconds(s) for s in (0, 119, 600, 7200, 200000)] == [
        "0 s", "119 s", "10 min", "2 h", "2 d",
    ]  # fmt: skip


def test_users_and_groups_come_and_go(config: Path) -> None:
    made = answer(
        config, "users", "create", "alice", "--display-name", "Alice A.", "--email", "a@example.org"
    )
    assert (made["display_name"], made["email"], made["admin"]) == (
        "Alice A.", "a@example.org", False,
    )  # fmt: skip
    key = answer(config, "keys", "create", "alice")
    assert (key["canonical_id"], key["display_name"]) == (made["canonical_id"], "Alice A.")
    assert answer(config, "users", "change", "alice", "--admin")["admin"]
    answer(config, "groups", "create", "readers")
    assert answer(config, "groups", "add", "readers", "alice")["members"] == ["alice"]
    policy = config.parent / "policy.json"
    statement = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": statement}))
    assert answer(config, "users", "set-policy", "alice", "p", str(policy))["policies"] == ["p"]
    assert answer(config, "groups", "set-policy", "readers", "q", str(policy))["policies"] == ["q"]
    assert answer(config, "groups", "drop-policy", "readers", "q")["policies"] == []
    answer(config, "groups", "drop-policy", "readers", "q", code=ExitCode.NOT_FOUND)
    policy.write_text("{}")
    refused = answer(config, "users", "set-policy", "alice", "p", str(policy), code=ExitCode.FAILED)
    assert "Missing required field Statement" in refused["error"]
    shown = answer(config, "users", "show", "alice")
    assert shown["policies"] == ["p"]
    assert shown["groups"] == ["readers"]
    assert shown["access_keys"] == [key["access_key"]]
    assert shown["display_name"] == "Alice A."
    assert answer(config, "users", "list")["users"] == [shown]
    assert answer(config, "groups", "list")["groups"][0]["name"] == "readers"
    assert answer(config, "groups", "remove", "readers", "alice")["members"] == []
    assert answer(config, "groups", "delete", "readers")["deleted"] == "readers"
    assert answer(config, "users", "delete", "alice")["revoked_keys"] == 1
    answer(config, "users", "show", "alice", code=ExitCode.NOT_FOUND)
    answer(config, "groups", "show", "readers", code=ExitCode.NOT_FOUND)


def test_a_store_is_mounted_under_a_bucket(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"mount": None})
    before = config.read_text()
    config.chmod(0o600)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one").write_bytes(b"1")
    made = answer(
        config, "buckets", "add", "photos", str(photos), "--option", "write_mode=write_back"
    )
    assert made == {"name": "photos", "store": "photos", "location": str(photos)}
    assert config.read_text().startswith(before)
    assert config.stat().st_mode & 0o777 == 0o600
    loaded = load(config)
    assert loaded.buckets[-1].write_mode == WriteMode.WRITE_BACK
    with open_volume(loaded) as volume:
        assert [e.key for e in volume.objects.list("photos").entries] == [b"one"]

    added = config.read_text()
    again = forebay(config, "buckets", "add", "photos", str(photos))
    assert "there is a bucket photos already" in again.stderr
    missing = forebay(config, "buckets", "add", "gone", str(tmp_path / "nowhere"))
    assert missing.returncode != 0
    wrong = forebay(config, "buckets", "add", "ftp", "ftp://host/path")
    assert "s3://BUCKET" in wrong.stderr
    misspelt = forebay(config, "buckets", "add", "more", str(photos), "--option", "colour=blue")
    assert "colour" in misspelt.stderr
    invalid = forebay(config, "buckets", "add", "No Bucket", str(photos))
    assert invalid.returncode != 0
    assert config.read_text() == added


def test_a_bucket_of_amazon_s_is_added_by_its_uri(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"mount": None})
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    forebay(
        config, "buckets", "add", "films", "s3://films-of-2024/old/", "--no-check",
        "--option", "region=eu-central-1", "--option", "read_only=true",
        "--option", "access_key=key", "--option", f"secret_key_file={secret}",
    )  # fmt: skip
    loaded = load(config)
    films = loaded.buckets[-1]
    assert (films.name, films.read_only) == ("films", True)
    assert loaded.stores[films.store].location == (
        "s3://films-of-2024/old/ at Amazon S3 in eu-central-1"
    )
