"""The code server: one process that loads the definitions, for the UI and the daemon together.

Without it the daemon starts a code server of its own every minute: 20% of a core, for nothing.
Only its user can reach it, through a socket in a private folder.
"""

from __future__ import annotations

import json
from pathlib import Path

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient

import grade_ml
from grade_ml.core.settings import Settings
from grade_ml.core.sockets import socket_directory

#: Schedules and sensors store their state under the name of the location, as in workspace.yaml.
_LOCATION, _MODULE = "grade_ml", "grade_ml.definitions"


def prepare(settings: Settings) -> tuple[Path, Path]:
    """Return the code server's socket and the file of a workspace that uses it."""
    folder = settings.home / "code_server"
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    socket, workspace = socket_directory(folder) / "socket", folder / "workspace.yaml"
    server = {"socket": str(socket), "location_name": _LOCATION}
    workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
    return socket, workspace


def arguments(socket: Path) -> tuple[str, ...]:
    """Return the arguments of `dagster` that start it; it can reload the code on demand."""
    place = ("--socket", str(socket), "--location-name", _LOCATION)
    # Dagster takes the first of the folders to import from off the list, which may be ours.
    source = Path(grade_ml.__file__).parent.parent
    code = ("--module-name", _MODULE, "--working-directory", str(source))
    return ("code-server", "start", *place, *code, "--use-python-environment-entry-point")


def answers(socket: Path) -> bool:
    """Return whether the code server has loaded the definitions, or why it could not."""
    try:
        DagsterGrpcClient(socket=str(socket)).heartbeat("")
    except DagsterUserCodeUnreachableError:
        return False
    return True
