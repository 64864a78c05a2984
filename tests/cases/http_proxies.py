"""Programs of others in front of the daemon's HTTP server: nginx with a cache, and Go's reverse proxy."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cases.fakes import HANG_S
from cases.witnessed_ledgers import free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
_SOURCE = Path(__file__).parents[1] / "interop" / "proxy"
_CONFIG = """
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  proxy_temp_path {directory}/proxy;
  proxy_cache_path {directory}/cache keys_zone=tiles:1m;
  upstream daemon {{ server 127.0.0.1:{upstream}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://daemon;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering {buffering};
      proxy_cache tiles;
      add_header X-Cache $upstream_cache_status always;
    }}
  }}
}}
"""
"""Connections to the daemon are kept, and shared by all clients. nginx obeys the daemon's Cache-Control."""


@contextmanager
def nginx(directory: Path, upstream: int, *, buffering: bool = True) -> Iterator[int]:
    """Run nginx with an empty cache in front of port *upstream*; yield its port."""
    assert NGINX is not None, "the caller skips without nginx"
    directory.mkdir()
    port = free_port()
    config = directory / "nginx.conf"
    switch = "on" if buffering else "off"
    config.write_text(_CONFIG.format(directory=directory, upstream=upstream, port=port, buffering=switch))
    process = subprocess.Popen(
        [NGINX, "-p", str(directory), "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_open(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(HANG_S)


def build_go_proxy(directory: Path) -> Path:
    """Build Go's reverse proxy; return the program."""
    assert GO is not None, "the caller skips without Go"
    program = directory / "proxy"
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    subprocess.run([GO, "build", "-buildvcs=false", "-o", program, "."], cwd=_SOURCE, env=environment, check=True)
    return program


@contextmanager
def go_proxy(program: Path, upstream: int) -> Iterator[int]:
    """Run Go's reverse proxy in front of port *upstream*; yield its port."""
    process = subprocess.Popen(
        [program, f"http://127.0.0.1:{upstream}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline().rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait(HANG_S)
        process.stdout.close()


def _wait_open(port: int, process: subprocess.Popen[bytes]) -> None:
    waited_s, step_s = 0.0, 0.05
    while waited_s < HANG_S:
        assert process.poll() is None, "nginx did not start"
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=HANG_S):
            return
        threading.Event().wait(step_s)
        waited_s += step_s
    raise AssertionError("nginx does not listen")
