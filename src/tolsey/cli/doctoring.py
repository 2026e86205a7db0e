"""`tolsey doctor`: whether this machine, its disk, its clock and what lies around are fit for a gateway."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, ClassVar

from tolsey.cli.options import DEFAULT_CONFIG, ConfigFile, Json
from tolsey.cli.output import emit, table
from tolsey.cli.program import command, new_app
from tolsey.errors import TolseyError

if TYPE_CHECKING:
    from tolsey.cli.checkups import Finding

app = new_app()


class Unfit(TolseyError):
    """Something was found that keeps a gateway from serving, or from being safe."""

    code: ClassVar[str] = "doctor_errors"


@command(app, "doctor", examples=["tolsey doctor", "tolsey doctor -c /etc/tolsey/tolsey.toml --json"])
def doctor(file: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> None:
    """Examine the machine that a gateway runs on.

    How fast the disk syncs, the clock, SQLite or PostgreSQL, who may read and write the files, the limit on open
    files, and whether the ledger and every upstream can be reached; each finding says what to do. Run it as the
    gateway's user, with its environment. It may run beside the gateway, changes nothing, and sends nothing upstream.
    Exit status 1 if there is an error; warnings and notes are none.
    """
    from tolsey.cli.checkups import Finding, examine_all
    from tolsey.cli.place import find_config
    from tolsey.config import load, problems

    wrong = problems(find_config(file), os.environ)
    findings = [Finding("config", "error", str(error), "see docs/config.md for what it takes") for error in wrong]
    if not wrong:
        findings += examine_all(load(file, os.environ))
    errors = sum(finding.state == "error" for finding in findings)
    emit(json, {"config": os.fspath(file), "findings": [asdict(f) for f in findings]}, lambda: _show(findings))
    if errors:
        raise Unfit(f"{errors} of {len(findings)} findings are errors")


def _show(findings: "list[Finding]") -> None:
    rows = [(finding.check, finding.state, finding.detail, finding.advice) for finding in findings]
    table(("part", "state", "found", "what to do"), rows)
