"""`forebay serve`: run the node in the foreground until a signal stops it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node import logs
from node.commands.options import (
    ConfigOption,
    JsonOption,
    human_bytes,
    human_seconds,
    print_json,
)
from node.config import NodeConfig, load, secrets_of
from node.volumes import check_first_start

if TYPE_CHECKING:
    from node.supervisor import Serving


def serve(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    https: Annotated[
        bool,
        typer.Option("--https", help="Serve HTTPS, too; self-signed if nothing is configured."),
    ] = False,
) -> None:
    """Serve the mount and the S3 endpoint until SIGTERM or Ctrl-C; a second one does not wait.

    The exit code is 0 also when something is left to persist: it is on disk, and the next start
    goes on with it.

    Example: `forebay serve --config /etc/forebay/forebay.toml`
    """
    from node.supervisor import Supervisor  # with its event loop, which only this command needs

    settings = load(config)
    if https and not settings.s3.https:
        s3 = dataclasses.replace(settings.s3, tls_self_signed=True)
        settings = dataclasses.replace(settings, s3=s3)
    logs.configure("supervisor", settings.log, secrets=secrets_of(settings))
    if settings.text.demo:
        # Elsewhere a missing directory is a file system that is not mounted.
        for store in settings.stores.values():
            if store.directory is not None:
                store.directory.mkdir(parents=True, exist_ok=True)

    check_first_start(settings)

    def on_ready(serving: Serving) -> None:
        if as_json:
            print_json(_as_json(settings, serving))
        else:
            typer.echo(_welcome(settings, serving))

    left = Supervisor(settings).run(on_ready)
    if as_json:
        print_json({"event": "stopped", "left": left})
    else:
        typer.echo(_farewell(left))


def _as_json(settings: NodeConfig, serving: Serving) -> dict[str, Any]:
    return {
        "event": "ready",
        "endpoint": serving.endpoint,
        "https_endpoint": serving.https_endpoint,
        "certificate": serving.certificate,
        "mount": str(serving.mount) if serving.mount else None,
        "mount_absent": serving.mount_absent,
        "state_dir": str(settings.cache.state_dir),
        "stores": _stores(settings),
        "auth": serving.auth,
        "config": settings.text.source,
        "pid": serving.pid,
        "processes": serving.pids,
    }


def _stores(settings: NodeConfig) -> dict[str, str]:
    return {name: store.location for name, store in settings.stores.items()}


def _welcome(settings: NodeConfig, serving: Serving) -> str:
    """Where everything is, and three lines to try."""
    mount = str(serving.mount) if serving.mount else f"none: {serving.mount_absent}"
    stores = ", ".join(f"{name} ({where})" for name, where in _stores(settings).items())
    lines = [
        "Forebay serves.",
        f"  S3 endpoint  {_endpoint(serving)}",
        *_https(serving),
        f"  mount        {mount}",
        f"  store        {stores or 'none'}",
        f"  state        {settings.cache.state_dir}",
        f"  settings     {settings.text.source}",
        "",
        "Try, in another terminal:",
        *(f"  {line}" for line in _examples(settings, serving)),
        "",
        "Ctrl-C stops it.",
    ]
    return "\n".join(lines)


def _endpoint(serving: Serving) -> str:
    if serving.endpoint is None:
        return "none: s3.enabled is false"
    return f"{serving.endpoint}  ({_AUTH[serving.auth]})"


def _https(serving: Serving) -> list[str]:
    if serving.https_endpoint is None:
        return []
    return [
        f"  HTTPS        {serving.https_endpoint}",
        f"  certificate  {serving.certificate}",
    ]


_AUTH = {
    "simple": "any access key is accepted, nothing is checked",
    "sigv4": "signatures are checked; make a key with `forebay keys create USER`",
    "oidc": "tokens and signatures are checked",
}


def _examples(settings: NodeConfig, serving: Serving) -> list[str]:
    demo = ""
    if serving.auth == "simple":
        demo = "AWS_ACCESS_KEY_ID=me AWS_SECRET_ACCESS_KEY=any AWS_DEFAULT_REGION=us-east-1 "
    aws = f"{demo}aws --endpoint-url {serving.endpoint}"
    bucket = settings.buckets[0].name if settings.buckets else "first"
    make = "" if settings.buckets else f"{aws} s3 mb s3://{bucket}"
    if serving.mount:
        copy = f"cp -a /usr/share/doc/bash {serving.mount}/{bucket}/"
        make = make and f"mkdir {serving.mount}/{bucket}"
    else:
        copy = f"{aws} s3 cp --recursive /usr/share/doc/bash s3://{bucket}/bash"
    look = f"{aws} s3 ls --recursive s3://{bucket}"
    if serving.endpoint is None:
        look = f"ls -R {serving.mount}/{bucket}"
    return [line for line in (make, copy, look) if line]


def _farewell(left: dict[str, Any]) -> str:
    if not left:
        return (
            "Forebay stopped without draining its queue; what is not in the store yet is safe in "
            "the state directory (`forebay status`), and the next start goes on with it."
        )
    if not left["names"]:
        return "Forebay stopped; everything is in the store."
    return (
        f"Forebay stopped; {left['names']} names ({human_bytes(left['bytes'])}) are not in the "
        f"store yet, the oldest for {human_seconds(left['oldest_s'])}. They are safe in the "
        "state directory; the next start goes on with them."
    )
