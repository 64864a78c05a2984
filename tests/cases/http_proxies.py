"""Programs of others in front of the daemon's HTTP server: nginx with a cache, Go's reverse proxy, and Envoy."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cases.fakes import HANG_S
from cases.witnessed_ledgers import free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
ENVOY = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
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

_ENVOY_CONFIG = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts:
            - {{name: daemon, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: daemon}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: daemon
    load_assignment:
      cluster_name: daemon
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"""
"""Envoy with its defaults: what it takes for one request, and how it shares its connections to the daemon."""


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
        _wait_open(port, process, "nginx")
        yield port
    finally:
        process.terminate()
        process.wait(HANG_S)


@contextmanager
def envoy(directory: Path, upstream: int) -> Iterator[int]:
    """Run Envoy in front of port *upstream*; yield its port."""
    port = free_port()
    with run_envoy(directory, _ENVOY_CONFIG.format(port=port, upstream=upstream), port):
        yield port


@contextmanager
def run_envoy(directory: Path, text: str, port: int) -> Iterator[None]:
    """Run Envoy with the configuration *text*, which listens on *port*."""
    assert ENVOY is not None, "the caller skips without Envoy"
    config = directory / "envoy.yaml"
    config.write_text(text)
    process = subprocess.Popen(
        [ENVOY, "--config-path", str(config), "--concurrency", "2", "--disable-hot-restart", "--log-level", "off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_open(port, process, "Envoy")
        yield
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


def _wait_open(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    waited_s, step_s = 0.0, 0.05
    while waited_s < HANG_S:
        assert process.poll() is None, f"{name} did not start"
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=HANG_S):
            return
        threading.Event().wait(step_s)
        waited_s += step_s
    raise AssertionError(f"{name} does not listen")
