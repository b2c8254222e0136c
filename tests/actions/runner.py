"""Runs a composite action as GitHub's runner does: its steps in bash, with the files and variables of the documents.

docs.github.com: "Metadata syntax", "Workflow commands", "Expressions" (of which only what the
action uses). ``Comments`` answers as "REST API endpoints for issue comments" says.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from ruamel.yaml import YAML

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github" / "actions" / "validate"
BOT = "github-actions[bot]"
_TERM = re.compile(r"\s*(?:'([^']*)'|([\w.-]+))\s*(==|!=|&&|$)")


@dataclass
class Run:
    """What a run of the action left behind."""

    failed: str = ""
    """Name of the step that failed."""
    log: str = ""
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def annotations(self) -> list[str]:
        """The workflow commands that show something on the pull request."""
        return [line for line in self.log.splitlines() if line.startswith(("::error", "::warning", "::notice"))]


@dataclass(frozen=True)
class Place:
    """Where an action runs: the checkout, the runner's temporary directory, the event and the API of the host."""

    workspace: Path
    temp: Path
    event: Path
    api: str


def run_action(
    place: Place, inputs: Mapping[str, str], *, only: str = "", outputs: Mapping[str, str] | None = None
) -> Run:
    """Run the action; or ``only`` one step of it, after others that had these outputs (``steps.ID.outputs.NAME``)."""
    action = YAML(typ="safe").load(ACTION / "action.yml")
    place.temp.mkdir(exist_ok=True)
    github = {"action_path": str(ACTION), "token": "the-token"}
    given = {name: str(value.get("default", "")) for name, value in action["inputs"].items()}
    known = {f"github.{name}": value for name, value in github.items()}
    known |= {f"inputs.{name}": _filled(value, known) for name, value in {**given, **inputs}.items()}
    known |= outputs or {}
    run = Run()
    for step in action["runs"]["steps"]:
        if not run.failed and only in ("", step["name"]) and _holds(step.get("if", ""), known):
            found = _step(step, place, known, run)
            known |= {f"steps.{step.get('id')}.outputs.{name}": value for name, value in found.items()}
    run.outputs = {name: _filled(value["value"], known) for name, value in action["outputs"].items()}
    return run


def _step(step: Mapping[str, Any], place: Place, known: Mapping[str, str], run: Run) -> dict[str, str]:
    files = place.temp / step["name"]
    files.mkdir()
    assert step["shell"] == "bash"
    (files / "script.sh").write_text(step["run"])
    for name in ("output", "summary"):
        (files / name).touch()
    env = {**_environment(place, files), **{name: _filled(value, known) for name, value in step.get("env", {}).items()}}
    words = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(files / "script.sh")]
    done = subprocess.run(
        words, cwd=place.workspace, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    run.log += done.stdout
    run.summary += (files / "summary").read_text()
    if done.returncode != 0:
        run.failed = step["name"]
    return dict(line.split("=", 1) for line in (files / "output").read_text().splitlines())


def _environment(place: Place, files: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(place.temp),
        "PYTHONPATH": str(ROOT),
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_API_URL": place.api,
        "GITHUB_EVENT_NAME": "pull_request",
        "GITHUB_EVENT_PATH": str(place.event),
        "GITHUB_OUTPUT": str(files / "output"),
        "GITHUB_REPOSITORY": "octo/specs",
        "GITHUB_STEP_SUMMARY": str(files / "summary"),
        "GITHUB_WORKSPACE": str(place.workspace),
        "RUNNER_TEMP": str(place.temp),
    }


def _filled(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda match: known.get(match[1], ""), str(text))


def _holds(condition: str, known: Mapping[str, str]) -> bool:
    """Evaluate ``a == 'b' && c != ''``."""
    values: list[str] = []
    signs: list[str] = []
    position = 0
    while position < len(condition):
        match = _TERM.match(condition, position)
        assert match, f"the runner of the tests does not know {condition!r}"
        values.append(match[1] if match[2] is None else known.get(match[2], ""))
        signs.append(match[3])
        position = match.end()
    return all((values[index] == values[index + 1]) is (signs[index] == "==") for index in range(0, len(values), 2))


class Comments:
    """A server that keeps the comments of pull request 7 of octo/specs."""

    def __init__(self) -> None:
        self.comments: list[dict[str, Any]] = []
        self.writes: list[str] = []
        self.status = 0
        """What every write is answered with instead; 0: as documented."""
        self.faults = 0
        """How many requests are answered with 502 before any is served."""
        self._next = 1
        comments = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                value = json.loads(self.rfile.read(size)) if size else None
                authorised = self.headers["Authorization"] == "Bearer the-token"
                status, answer = comments.serve(self.command, self.path, value) if authorised else (401, {})
                data = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 - names of the base class

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def bodies(self) -> list[str]:
        return [comment["body"] for comment in self.comments]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, body: str, login: str = BOT) -> dict[str, Any]:
        """Add a comment, as somebody; return it."""
        comment = {"id": self._next, "body": body, "user": {"login": login}}
        self._next += 1
        self.comments.append(comment)
        return comment

    def serve(self, method: str, url: str, value: Any) -> tuple[int, Any]:  # noqa: ANN401, PLR0911 - as JSON; one answer after the other
        """Answer a request: status and value."""
        if self.faults:
            self.faults -= 1
            return 502, {"message": "Bad Gateway"}
        parts = urlsplit(url)
        if parts.path == "/repos/octo/specs/issues/7/comments" and method == "GET":
            query = {name: int(values[0]) for name, values in parse_qs(parts.query).items()}
            size, page = min(query.get("per_page", 30), 100), query.get("page", 1)
            return 200, self.comments[(page - 1) * size : page * size]
        if self.status:
            return self.status, {"message": "Resource not accessible by integration"}
        if value is not None and len(value["body"]) > 65_536:
            return 422, {"message": "Validation Failed"}
        self.writes.append(method)
        if parts.path == "/repos/octo/specs/issues/7/comments" and method == "POST":
            return 201, self.add(value["body"])
        found = re.fullmatch(r"/repos/octo/specs/issues/comments/(\d+)", parts.path)
        mine = next((c for c in self.comments if found and c["id"] == int(found[1])), None)
        if mine is None:
            return 404, {"message": "Not Found"}
        if method == "DELETE":
            self.comments.remove(mine)
            return 204, None
        mine["body"] = value["body"]
        return 200, mine
