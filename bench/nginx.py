"""nginx with a configuration of ours: one process, in the foreground, no access log, nothing outside its folder."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import install
from bench.processes import running

_CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {http}
}}
"""


@contextlib.contextmanager
def nginx(http: str, *, folder: Path, core: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """nginx on a core with these lines in its ``http`` block: the process and its log."""
    config, log = folder / "nginx.conf", folder / "nginx.log"
    config.write_text(_CONFIG.format(folder=folder, http=http))
    command: list[str | Path] = [install.need("nginx"), "-p", folder, "-e", "stderr", "-c", config]
    with running(command, core=core, log=log) as process:
        yield process, log
