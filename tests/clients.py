"""L402 clients that others wrote, each from its registry and in an environment of its own, outside the repository.

A client is a script that makes calls and prints what came of each, as JSON.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

INSTALL_SECONDS: Final = 600
RUN_SECONDS: Final = 120


@dataclass(frozen=True)
class Foreign:
    """One client: what is installed (for pip, or as npm's package.json), and its script.

    The script gets the URL of a gateway, and that of an LND with its macaroon, as its arguments. It calls
    `/search` twice, and prints a list of statuses.
    """

    name: str
    script: str
    pip: tuple[str, ...] = ()
    npm: str | None = None

    def environment(self) -> Path:
        """The folder that it is installed in."""
        digest = hashlib.sha256(repr((self.pip, self.npm, sys.version)).encode()).hexdigest()[:12]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "tolsey" / f"{self.name}-{digest}"
        if not (folder / "installed").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            if self.npm is not None:
                (folder / "package.json").write_text(self.npm)
                _run(["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
            else:
                _run([sys.executable, "-m", "venv", "."], folder)
                _run(["bin/python", "-m", "pip", "install", "--quiet", *self.pip], folder)
            (folder / "installed").touch()
        return folder

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - what it printed
        """Run the script; what its last line says."""
        folder = self.environment()
        script = folder / ("script.cjs" if self.npm is not None else "script.py")
        script.write_text(self.script)
        program = "node" if self.npm is not None else folder / "bin/python"
        done = subprocess.run(
            [program, script, *arguments],
            cwd=folder,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout.strip().splitlines()[-1])


def _run(command: list[str], folder: Path) -> None:
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"


L402_REQUESTS: Final = Foreign(
    "l402-requests",
    pip=("l402-requests==0.9.0",),
    script="""
import base64, json, sys
import httpx
from l402_requests import BudgetController, L402Client
gateway, node, macaroon = sys.argv[1:4]

class Wallet:
    # Its own LndWallet decodes a preimage as base64 that lnd gives in hex.
    supports_preimage = True

    def pay_invoice_sync(self, invoice):
        headers = {"Grpc-Metadata-Macaroon": macaroon}
        body = {"payment_request": invoice}
        paid = httpx.post(node + "/v1/channels/transactions", headers=headers, json=body, timeout=60).json()
        return base64.b64decode(paid["payment_preimage"]).hex()

client = L402Client(wallet=Wallet(), budget=BudgetController(max_sats_per_request=5000))
print(json.dumps([client.get(gateway + "/search").status_code for _ in range(2)]))
""",
)

L402SDK: Final = Foreign(
    "l402sdk",
    pip=("l402sdk==0.1.0",),
    script="""
import json, sys
from l402 import Budget, L402Client
gateway, node, macaroon = sys.argv[1:4]
client = L402Client.with_lnd_rest(node, macaroon, budget=Budget(total_max=5000))
print(json.dumps([client.get(gateway + "/search").status for _ in range(2)]))
""",
)

LSAT_JS: Final = Foreign(
    "lsat-js",
    npm=json.dumps(
        {
            "private": True,
            "dependencies": {"macaroon": "3.0.4", "lsat-js": "2.0.6"},
            # As published it wants a branch of a repository.
            "overrides": {"lsat-js": {"macaroon": "npm:macaroon@3.0.4"}},
        }
    ),
    script="""
const { Lsat } = require('lsat-js');
const [gateway, node, macaroon] = process.argv.slice(2);
(async () => {
  const first = await fetch(gateway + '/search');
  const lsat = Lsat.fromHeader(first.headers.get('www-authenticate'));
  const paid = await fetch(node + '/v1/channels/transactions', {
    method: 'POST',
    headers: { 'Grpc-Metadata-Macaroon': macaroon },
    body: JSON.stringify({ payment_request: lsat.invoice }),
  });
  const preimage = Buffer.from((await paid.json()).payment_preimage, 'base64').toString('hex');
  lsat.setPreimage(preimage);
  const statuses = [];
  for (let n = 0; n < 2; n++) {
    const answer = await fetch(gateway + '/search', { headers: { Authorization: lsat.toToken() } });
    statuses.push(answer.status);
  }
  console.log(JSON.stringify(statuses));
})();
""",
)

LNBITS: Final = Foreign("lnbits", script="", pip=("lnbits==1.6.2", "bitstring<5"))
"""A server; `tests/lightning_rig.py` runs it."""

CLIENTS: Final = (L402_REQUESTS, L402SDK, LSAT_JS)
