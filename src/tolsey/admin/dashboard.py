"""The dashboard: server-rendered pages on the admin listener, for whoever logs in with an admin token or with a
provider.

Every page verifies the session's token again and asks it for the same action as the API does; what changes something is
a form of this session's own, and an entry as over the API. Pages work without scripts; htmx opens the tree level by
level and keeps figures up to date.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tolsey.admin import acts, models, views
from tolsey.admin.access import Admin, admin_of
from tolsey.admin.identity import IdentityExpired
from tolsey.admin.office import Office
from tolsey.admin.pages import Pages
from tolsey.admin.problems import CODES, Refused, Wrong
from tolsey.admin.receipts import Receipt, receipt_of
from tolsey.admin.sessions import LONGEST_SECONDS, Session, Sessions
from tolsey.admin.signing_in import BEGUN, MOST_SECONDS, SigningIn
from tolsey.errors import STATUSES, Refusal, TolseyError
from tolsey.ledger.report import OBSERVE, Groups
from tolsey.ledger.windows import HOUR
from tolsey.store.by_hand import AccountUnknown
from tolsey.store.chains import open_holds
from tolsey.store.checkpoints import seal_keys
from tolsey.store.contract import Snapshot
from tolsey.store.revocations import standing
from tolsey.store.tallies import tallies

COOKIE: Final = "tolsey_session"
HERE: Final = Path(__file__).parent

MAX_FIELDS: Final = 32
MAX_HOLDS: Final = 500
MAX_FIGURES: Final = 300
"""How many accounts are kept up to date on one page."""

REPORT_DAYS: Final = 7

Page = Callable[["Visit"], Awaitable[Response]]


class Visit:
    """One request of somebody who is logged in."""

    def __init__(
        self, request: Request, office: Office, session: Session, admin: Admin, fields: dict[str, str]
    ) -> None:
        self.request = request
        self.office = office
        self.session = session
        self.admin = admin
        self.fields = fields

    def query(self, name: str) -> str:
        """A parameter of the query, `""` where it is not there."""
        return self.request.query_params.get(name, "")


class Dashboard:
    """The application. `office` is the gateway's."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._sessions = Sessions(office.now)
        self._signing_in = SigningIn(office)
        self._pages = Pages(HERE / "templates")

    def application(self) -> Starlette:
        """The routes."""
        page, form = self._page, self._form
        routes = [
            Route("/", self._home),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/login/{provider}", self._sign_in),
            Route("/login/{provider}/done", self._signed_in),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/overview", page("report", self._overview)),
            Route("/tree", page("trail", self._tree)),
            Route("/tree/level", page("trail", self._level)),
            Route("/tree/figures", page("trail", self._figures)),
            Route("/accounts/{id}", page("trail", self._account)),
            Route("/accounts/{id}/grant", form("grant", self._grant), methods=["POST"]),
            Route("/accounts/{id}/revoke", page("revoke", self._revoke_form)),
            Route("/accounts/{id}/revoke", form("revoke", self._revoke), methods=["POST"]),
            Route("/revoked", page("revoked", self._revoked)),
            Route("/revoked/{id}/unrevoke", form("unrevoke", self._unrevoke), methods=["POST"]),
            Route("/approvals", page("approvals", self._approvals)),
            Route("/approvals/{id}/approve", form("approve", self._approve), methods=["POST"]),
            Route("/approvals/{id}/deny", form("deny", self._deny), methods=["POST"]),
            Route("/receipts/{hold}", page("trail", self._receipt)),
            Route("/receipts/{hold}/document", page("trail", self._receipt_document)),
            Route("/holds", page("holds", self._holds)),
            Route("/holds/{hold}/void", form("void", self._void), methods=["POST"]),
            Route("/holds/{hold}/refund", form("refund", self._refund), methods=["POST"]),
            Route("/report", page("report", self._report)),
            Route("/mint", page("mint", self._mint_form)),
            Route("/mint", form("mint", self._mint), methods=["POST"]),
            Route("/config", page("config", self._config)),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        return Starlette(
            routes=routes, exception_handlers={404: self._missing, 405: self._missing, Refused: self._refusal}
        )

    # --- who is there

    async def _home(self, _: Request) -> Response:
        return RedirectResponse("/overview", 303)

    async def _login(self, request: Request) -> Response:
        onward = _onward(request)
        if request.method == "GET":
            return self._login_page(onward)
        _check_origin(request)
        token = _fields(await request.body()).get("token", "").strip()
        try:
            await admin_of(self._office, token, _peer(request), None)
        except Refused as error:
            return self._login_page(onward, error.refusal.detail)
        except TolseyError as error:
            return self._login_page(onward, error.detail)
        answer = RedirectResponse(onward, 303)
        self._open(request, answer, token)
        return answer

    def _login_page(self, onward: str, problem: str | None = None) -> Response:
        status = 200 if problem is None else 401
        return self._pages.page(
            "login.html", status, to=onward, problem=problem, providers=self._signing_in.providers()
        )

    def _open(self, request: Request, answer: Response, token: str) -> None:
        """Log a browser in with its answer."""
        secure = request.headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(
            COOKIE, self._sessions.open(token), max_age=LONGEST_SECONDS, httponly=True, samesite="strict", secure=secure
        )

    async def _sign_in(self, request: Request) -> Response:
        onward = _onward(request)
        try:
            where, browser = await self._signing_in.begin(request.path_params["provider"], onward)
        except TolseyError as error:
            return self._login_page(onward, error.detail)
        answer = RedirectResponse(where, 303)
        secure = request.headers.get("x-forwarded-proto") == "https"
        # Lax, as it must come along when the provider sends the browser back.
        answer.set_cookie(
            BEGUN, browser, max_age=MOST_SECONDS, path="/login", httponly=True, samesite="lax", secure=secure
        )
        return answer

    async def _signed_in(self, request: Request) -> Response:
        try:
            token, onward = await self._signing_in.end(request.path_params["provider"], request)
        except Refused as error:
            return self._login_page("/overview", error.refusal.detail)
        except TolseyError as error:
            return self._login_page("/overview", error.detail)
        # The session's cookie is not sent with what another site has led to: this page leads on.
        answer = self._pages.page("signed_in.html", to=onward)
        self._open(request, answer, token)
        answer.delete_cookie(BEGUN, path="/login")
        return answer

    async def _logout(self, request: Request) -> Response:
        session = self._sessions.find(request.cookies.get(COOKIE, ""))
        if session is not None and session.is_form(_fields(await request.body()).get("form", "")):
            self._sessions.close(request.cookies[COOKIE])
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer

    def _page(self, action: str, page: Page) -> Callable[[Request], Awaitable[Response]]:
        """A page for those who are logged in with a token that allows `action`."""

        async def answer(request: Request) -> Response:
            return await self._answer(request, action, page, {})

        return answer

    def _form(self, action: str, page: Page) -> Callable[[Request], Awaitable[Response]]:
        """What a form of a page is answered with. One that is not this session's changes nothing."""

        async def answer(request: Request) -> Response:
            _check_origin(request)
            fields = _fields(await request.body())
            session = self._sessions.find(request.cookies.get(COOKIE, ""))
            if session is not None and not session.is_form(fields.get("form", "")):
                detail = "this form is not of your session: go back, load the page again, and repeat it"
                return self._pages.problem(403, "Nothing was changed", detail)
            return await self._answer(request, action, page, fields)

        return answer

    async def _answer(self, request: Request, action: str, page: Page, fields: dict[str, str]) -> Response:
        session = self._sessions.find(request.cookies.get(COOKIE, ""))
        if session is None:
            return _to_login(request)
        try:
            admin = await admin_of(self._office, session.token, _peer(request), action)
            return await page(Visit(request, self._office, session, admin, fields))
        except Refused as error:
            refusal = error.refusal
            if refusal.status == 401 or refusal.code == "token_revoked":
                self._sessions.close(request.cookies[COOKIE])
                return _to_login(request)
            return self._refused(refusal)
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            return self._pages.problem(422, "This cannot be read", said)
        except TolseyError as error:
            code = error.wrong if isinstance(error, Wrong) else error.code
            if isinstance(error, IdentityExpired):
                self._sessions.close(request.cookies[COOKIE])
                return _to_login(request)
            status, title = CODES.get(code, CODES["internal_error"])
            return self._pages.problem(status, title, error.detail)

    def _refused(self, refusal: Refusal) -> Response:
        detail = refusal.detail + (f" (caveat {refusal.caveat!r})" if refusal.caveat else "")
        return self._pages.problem(refusal.status, STATUSES[refusal.code][1], detail)

    async def _refusal(self, _: Request, error: Exception) -> Response:
        refusal = error.refusal if isinstance(error, Refused) else Refusal("request_invalid", "")
        return self._refused(refusal)

    async def _missing(self, _request: Request, _: Exception) -> Response:
        return self._pages.problem(404, "There is no such page", "The address is not one of the dashboard's.")

    # --- pages

    async def _overview(self, visit: Visit) -> Response:
        found = await self._office.read(views.overview)
        return self._pages.of(visit, "overview.html", seen=found)

    async def _tree(self, visit: Visit) -> Response:
        words = visit.query("q")[:128].strip()
        level = await self._office.read(
            lambda s: _in_tree(s, lambda tree: tree.find(words) if words else tree.level(None, 0))
        )
        return self._pages.of(visit, "tree.html", level=level, words=words, above=None)

    async def _level(self, visit: Visit) -> Response:
        above, offset = visit.query("above") or None, _whole(visit.query("offset"))
        level = await self._office.read(lambda s: _in_tree(s, lambda tree: tree.level(above, offset)))
        return self._pages.of(visit, "level.html", level=level, above=above)

    async def _figures(self, visit: Visit) -> Response:
        keys = visit.request.query_params.getlist("at")[:MAX_FIGURES]
        nodes = await self._office.read(lambda s: _in_tree(s, lambda tree: tree.nodes(keys)))
        return self._pages.of(visit, "figures.html", nodes=nodes)

    async def _account(self, visit: Visit) -> Response:
        return await self._account_page(visit, visit.request.path_params["id"])

    async def _account_page(self, visit: Visit, prefix_id: str, said: str = "") -> Response:
        found = await self._office.read(lambda s: views.chain_page(s, prefix_id))
        if found is None:
            return self._pages.problem(404, "No such account", "Nothing was charged there.")
        return self._pages.of(visit, "account.html", chain=found, said=said, prefix_id=prefix_id)

    async def _receipt(self, visit: Visit) -> Response:
        found = await self._read_receipt(visit)
        return self._pages.of(visit, "receipt.html", said=found.said, unsigned=found.unsigned)

    async def _receipt_document(self, visit: Visit) -> Response:
        found = await self._read_receipt(visit)
        name = quote(f"receipt-{found.said['hold']}.json", safe="")
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{name}", "cache-control": "no-store"}
        return Response(found.data, media_type="application/json", headers=headers)

    async def _read_receipt(self, visit: Visit) -> Receipt:
        hold = visit.request.path_params["hold"]
        key = seal_keys(self._office.keys.keyring)[-1]
        return await self._office.read(lambda snapshot: receipt_of(snapshot, hold, key))

    async def _holds(self, visit: Visit) -> Response:
        def first(snapshot: Snapshot) -> list[dict[str, object]]:
            with snapshot:
                return [hold.to_json() for _, hold in zip(range(MAX_HOLDS + 1), open_holds(snapshot), strict=False)]

        found = await self._office.read(first)
        return self._pages.of(visit, "holds.html", holds=found[:MAX_HOLDS], more=len(found) > MAX_HOLDS)

    async def _report(self, visit: Visit) -> Response:
        groups, refusals = Groups(["agent", "route"]), Groups(["code", "agent", "verified"])

        def add_up(snapshot: Snapshot) -> None:
            with snapshot:
                end = snapshot.now() // HOUR + 1
                for hour, key, counts in tallies(snapshot, end - REPORT_DAYS * 24, end):
                    groups.add(hour, key, counts)
                    if key.mode == OBSERVE and key.code:
                        refusals.add(hour, key, counts)

        await self._office.read(add_up)
        return self._pages.of(visit, "report.html", groups=groups.found(), refusals=refusals.found(), days=REPORT_DAYS)

    async def _config(self, visit: Visit) -> Response:
        return self._pages.of(visit, "config.html", state=self._office.state())

    async def _mint_form(self, visit: Visit) -> Response:
        return self._pages.of(visit, "mint.html", minted=None, filled={})

    # --- what changes something

    async def _mint(self, visit: Visit) -> Response:
        fields = {name: value.strip() for name, value in visit.fields.items()}
        body = models.MintBody(
            label=fields.get("label", ""),
            budget=fields.get("budget") or None,
            scope=fields.get("scope") or None,
            expires=fields.get("expires") or None,
            caveats=[line.strip() for line in fields.get("caveats", "").splitlines() if line.strip()],
            free_calls_only=not fields.get("budget"),
            reason=fields.get("reason") or None,
        )
        minted = await acts.mint(self._office, visit.admin, body)
        return self._pages.of(visit, "mint.html", minted=minted, filled={})

    async def _grant(self, visit: Visit) -> Response:
        prefix_id = visit.request.path_params["id"]
        body = models.GrantBody(amount=visit.fields.get("amount", ""), reason=visit.fields.get("reason", ""))
        more, left = await acts.grant(self._office, visit.admin, prefix_id, body)
        return await self._account_page(visit, prefix_id, f"Granted {more}; {left} are left.")

    async def _revoke_form(self, visit: Visit) -> Response:
        prefix_id = visit.request.path_params["id"]
        found = await self._office.read(lambda s: views.chain_page(s, prefix_id))
        if found is None:
            raise AccountUnknown("nothing was charged there")
        return self._pages.of(visit, "revoke.html", chain=found, prefix_id=prefix_id)

    async def _revoke(self, visit: Visit) -> Response:
        prefix_id = visit.request.path_params["id"]
        body = models.RevokeBody(prefix_id=prefix_id, link=None, reason=visit.fields.get("reason", ""))
        await acts.revoke(self._office, visit.admin, body)
        return self._pages.of(visit, "done.html", said=f"Revoked {prefix_id}: every token that holds it is refused.")

    async def _revoked(self, visit: Visit) -> Response:
        found = [acts.revocation(each) for each in await self._office.read(standing)]
        return self._pages.of(visit, "revoked.html", revocations=found)

    async def _unrevoke(self, visit: Visit) -> Response:
        prefix_id = visit.request.path_params["id"]
        why = models.Why(reason=visit.fields.get("reason", ""))
        await acts.unrevoke(self._office, visit.admin, prefix_id, why)
        return self._pages.of(visit, "done.html", said=f"{prefix_id} is not revoked any more.")

    async def _approvals(self, visit: Visit) -> Response:
        return self._pages.of(visit, "approvals.html", questions=await self._office.read(acts.questions))

    async def _approve(self, visit: Visit) -> Response:
        return await self._answered(visit, granted=True)

    async def _deny(self, visit: Visit) -> Response:
        return await self._answered(visit, granted=False)

    async def _answered(self, visit: Visit, *, granted: bool) -> Response:
        why = models.Why(reason=visit.fields.get("reason", ""))
        asked = await acts.answer(self._office, visit.admin, visit.request.path_params["id"], why, granted=granted)
        call = f"{asked.question.method} {asked.question.path}"
        return self._pages.of(visit, "done.html", said=f"{'Approved' if granted else 'Denied'} {call}.")

    async def _void(self, visit: Visit) -> Response:
        hold = visit.request.path_params["hold"]
        back, was = await acts.void(self._office, visit.admin, hold, models.Why(reason=visit.fields.get("reason", "")))
        return self._pages.of(visit, "done.html", said=f"Voided hold {hold}, which was {was}: {back} returned.")

    async def _refund(self, visit: Visit) -> Response:
        hold = visit.request.path_params["hold"]
        body = models.RefundBody(amount=visit.fields.get("amount") or None, reason=visit.fields.get("reason", ""))
        back = await acts.refund(self._office, visit.admin, hold, body)
        return self._pages.of(visit, "done.html", said=f"Refunded {back} of hold {hold}.")


def _in_tree(snapshot: Snapshot, what: Callable[[views.Tree], Any]) -> Any:  # noqa: ANN401 - whatever `what` finds
    with snapshot:
        return what(views.Tree(snapshot))


def _onward(request: Request) -> str:
    """The path that somebody was going to."""
    onward = request.query_params.get("to", "/overview")
    # A path of ours and nothing else: `//host` would lead away, and so would what browsers make that of.
    plain = onward.isascii() and onward.isprintable() and not set(onward) & set("\\ ")
    return onward if plain and onward.startswith("/") and not onward.startswith("//") else "/overview"


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _peer(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _fields(body: bytes) -> dict[str, str]:
    """The fields of a form, each once. Raises ValueError."""
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS))


def _check_origin(request: Request) -> None:
    """Refuse a form that another site has sent, where the browser says so."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refused(Refusal("request_invalid", "the form was sent by another site"))


def _to_login(request: Request) -> Response:
    """To the log-in page, and back to where one was going."""
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    back = request.url.path if request.method == "GET" else "/overview"
    return RedirectResponse(f"/login?to={quote(back)}", 303)
