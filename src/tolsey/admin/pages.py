"""Templates, filled in. Everything that is put into one is escaped, and nothing in it can turn a line around."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from tolsey.token.admin import actions_of
from tolsey.token.admin_caveats import ACTIONS
from tolsey.token.caveats import format_time
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.admin.dashboard import Visit

CSP: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
"""What a page may load: our own script and style, from here."""

MENU: Final = (
    ("/overview", "Overview", "report"),
    ("/tree", "Tree", "trail"),
    ("/holds", "Holds", "holds"),
    ("/approvals", "Approvals", "approvals"),
    ("/revoked", "Revoked", "revoked"),
    ("/report", "Report", "report"),
    ("/mint", "Mint", "mint"),
    ("/config", "Config", "config"),
)
"""The pages, and the action that each needs."""

WIDTH: Final = 720
"""How wide a plot is drawn, in its own units."""


def plain(text: object) -> str:
    """Somebody's text, with what cannot be seen, or turns a line around, written out."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in str(text))


def _shown(value: object) -> object:
    """What an expression of a template puts out: `plain`, but for markup that a macro has made."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


class Pages:
    """The templates of a folder, for one gateway."""

    def __init__(self, folder: Path) -> None:
        self._env = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._env.filters["money"] = format_nano
        self._env.filters["time"] = format_time
        self._env.globals["width"] = WIDTH

    def page(self, name: str, status: int = 200, /, **values: object) -> Response:
        """A page for whoever is not logged in."""
        return self._answer(name, status, {"menu": [], "who": None, "form": "", "actions": [], **values})

    def of(self, visit: "Visit", name: str, status: int = 200, /, **values: object) -> Response:
        """A page for somebody who is logged in: with the pages that the token opens, and what its forms must hold."""
        actions = actions_of(visit.admin.chain, ACTIONS)
        menu = [(path, title) for path, title, action in MENU if action in actions]
        whose = {"menu": menu, "who": visit.admin.who, "form": visit.session.form, "actions": actions}
        return self._answer(name, status, {**whose, **values})

    def problem(self, status: int, title: str, detail: str) -> Response:
        """A page that says what went wrong."""
        return self.page("problem.html", status, title=title, detail=detail)

    def _answer(self, name: str, status: int, values: Mapping[str, object]) -> Response:
        body = self._env.get_template(name).render(values)
        return HTMLResponse(body, status, {"content-security-policy": CSP, "cache-control": "no-store"})
