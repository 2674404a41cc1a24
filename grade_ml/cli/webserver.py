"""Dagster's UI behind a guard; `python -m grade_ml.cli.webserver`, a child of `grade-ml up`.

Dagster's own server answers any page: it executes mutations that come by GET, and checks neither
Origin nor Host. This is the same application behind `core.guard`, which refuses other requests.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
from dagster._cli.workspace.cli_target import workspace_opts_to_load_target
from dagster_shared.cli import WorkspaceOpts, workspace_options
from starlette.datastructures import MutableHeaders, QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from grade_ml.core.guard import LOOPBACK, Guard
from grade_ml.core.settings import Settings, UiSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
#: Returns the versions of Dagster and nothing else; programs that monitor the server request it.
HEALTH = "/server_info"
_GRAPHQL = frozenset({"application/json", "application/graphql"})
#: The values of Dagster's command: neither a slow query nor an old connection may block the UI.
_STATEMENT_MS, _RECYCLE_SECONDS, _OVERFLOW = 15_000, 3_600, 20
_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@click.command()
@click.option("-p", "--port", required=True, type=click.IntRange(1, 65535))
@click.option("--read-only", is_flag=True, help="Show everything; allow no changes.")
@workspace_options
def main(port: int, read_only: bool, **workspace: Any) -> None:
    """Serve Dagster's UI to the pages of this server and to scripts on this machine."""
    import uvicorn
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._utils.log import configure_loggers
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    from grade_ml.orchestration.instance import open_instance

    configure_loggers()
    ui = UiSettings.from_environment()
    target = workspace_opts_to_load_target(WorkspaceOpts.extract_from_cli_options(workspace))
    with open_instance(Settings.from_environment()) as instance:
        instance.optimize_for_webserver(_STATEMENT_MS, _RECYCLE_SECONDS, _OVERFLOW)
        with WorkspaceProcessContext(instance, target, __version__, read_only) as context:
            app = Guarded(create_app_from_workspace_process_context(context), ui)
            # An access log would contain the token of the link by which a browser signs in.
            uvicorn.run(app, host=HOST, port=port, log_level="warning", access_log=False)


class Guarded:
    """An ASGI application that forwards the requests that the guard allows, and adds headers."""

    def __init__(self, app: ASGIApp, ui: UiSettings) -> None:
        self._app = app
        self._guard = Guard(LOOPBACK | set(ui.hosts), _GRAPHQL)
        self._token = ui.token.get_secret_value() if ui.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request or WebSocket, or forward it."""

        async def marked(message: Message) -> None:
            if message["type"].endswith("response.start"):
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                # Dagster's pages have a policy of their own; browsers apply all policies.
                headers.append("Content-Security-Policy", "frame-ancestors 'none'")
            await send(message)

        answer = None
        if scope["type"] != "lifespan":
            answer = self._refused(scope) or self._let_in(HTTPConnection(scope))
        await (answer or self._app)(scope, receive, marked)

    def _refused(self, scope: Scope) -> Response | None:
        method = scope.get("method", "GET")
        headers = ((n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"])
        refusal = self._guard.refusal(method, headers)
        if refusal:
            return PlainTextResponse(f"Refused: {refusal.reason}\n", refusal.status)
        if not scope["path"].isprintable():
            return PlainTextResponse("Refused: the path has control characters.\n", 400)
        # Dagster executes a query in the address; without a query, a GET opens its playground. Its
        # router treats `/graphql` with a line end alike, so no part of the path may contain it.
        if method != "POST" and "graphql" in scope["path"].lower() and scope["query_string"]:
            words = "Refused: send GraphQL as the body of a POST, as application/json.\n"
            return PlainTextResponse(words, 405, {"Allow": "POST"})
        return None

    def _let_in(self, connection: HTTPConnection) -> Response | None:
        """Return None if the request has the token, else the response that refuses it."""
        if self._token is None or connection.scope["path"] == HEALTH:
            return None
        # Browsers send cookies to every port of a host: two installations need two names.
        cookie = f"grade_ml_{connection.url.port or ''}"
        session = hmac.new(self._token.encode(), b"session of the UI", hashlib.sha256).hexdigest()
        if _same(connection.query_params.get("token", ""), self._token):
            response = RedirectResponse(_without_token(connection), 303)
            distant = connection.url.hostname not in LOOPBACK
            response.set_cookie(cookie, session, httponly=True, samesite="lax", secure=distant)
            return response
        scheme, _, shown = connection.headers.get("authorization", "").partition(" ")
        if _same(connection.cookies.get(cookie, ""), session) or (
            scheme.lower() == "bearer" and _same(shown.strip(), self._token)
        ):
            return None
        return PlainTextResponse(
            "Refused: this UI requires the token that is set as GRADE_ML_UI_TOKEN. Open it once as "
            "/?token=TOKEN; scripts send the header Authorization: Bearer TOKEN.\n",
            401,
            {"WWW-Authenticate": "Bearer"},
        )


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _without_token(connection: HTTPConnection) -> str:
    kept = [(n, v) for n, v in connection.query_params.multi_items() if n != "token"]
    query = str(QueryParams(kept))
    # A path that begins with two slashes would lead to another host.
    path = "/" + quote(connection.scope["path"]).lstrip("/")
    return f"{path}?{query}" if query else path


if __name__ == "__main__":
    main()
