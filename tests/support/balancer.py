"""nginx in front of a node, as a load balancer that passes requests on as they are."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stores import free_port, running, wait_until_it_answers

NGINX = shutil.which("nginx", path=str(Path(sys.executable).parent)) or shutil.which("nginx")
requires_nginx = pytest.mark.skipif(NGINX is None, reason="there is no nginx: script/setup test")

_CONFIG = """
daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log; {user}
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  upstream nodes {{ server 127.0.0.1:{node}; keepalive 4; }}
  client_max_body_size 0;
  proxy_http_version 1.1;
  server {{  # passes bodies on as they arrive
    listen 127.0.0.1:{streaming};
    location / {{
      proxy_pass http://nodes; proxy_set_header Host $http_host; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_buffering off;
    }}
  }}
  server {{  # collects bodies first, as nginx does unless told otherwise
    listen 127.0.0.1:{collecting};
    location / {{
      proxy_pass http://nodes; proxy_set_header Host $http_host; proxy_set_header Connection "";
    }}
  }}
  server {{  # as nginx is without a word about the host: it names the upstream
    listen 127.0.0.1:{renaming};
    location / {{ proxy_pass http://nodes; }}
  }}
}}
"""


@contextlib.contextmanager
def balancer(directory: Path, node_port: int) -> Iterator[dict[str, int]]:
    """Ports of three ways in which nginx leads to a node: streaming, collecting, renaming."""
    assert NGINX is not None
    directory.mkdir()
    directory.chmod(0o755)
    ports = {way: free_port() for way in ("streaming", "collecting", "renaming")}
    config = directory / "nginx.conf"
    config.write_text(_CONFIG.format(root=directory, node=node_port, user="user root;", **ports))
    with running([NGINX, "-c", str(config), "-p", str(directory)], directory / "log") as process:
        for port in ports.values():
            wait_until_it_answers(port, process)
        yield ports
