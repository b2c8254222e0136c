"""Keeps comments on a pull request up to date: the plan, or what is wrong with the specs.

The last step but one of the action. A comment of ours begins with a marker that people do
not see; it is changed in place, comments that are too many go, and those of anybody else
are left alone, whatever they begin with. Without the right to comment (a pull request of
a fork) there is a notice, and the summary of the step has everything: nothing here fails
a check. Runs with the standard library of whatever Python the runner has.

Interface: docs.github.com, "REST API endpoints for issue comments".
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

Comment = dict[str, Any]
_LIMIT = 65_536
"""Characters of a comment that GitHub takes."""
_LEFT_OUT = "\n\nThe summary of the step has all of it.\n"
_SPLIT = re.compile(r"^<!-- reconciler plan \d+/\d+ -->\n", re.MULTILINE)
_PAGE = 100
_TRIES = 3
_REFUSED = (401, 403, 404)
"""No right to comment: a token that can only read sees some of these as "not found"."""
_PASSING = (429, 500, 502, 503, 504)


class NoComment(Exception):  # noqa: N818 - not an error: the check goes on without
    """There is no commenting here; says why."""


class Issue:
    """The comments of one pull request."""

    def __init__(self, api: str, repository: str, number: int, token: str) -> None:
        self._comments = f"{api}/repos/{repository}/issues/comments"
        self._of_this = f"{api}/repos/{repository}/issues/{number}/comments"
        self._token = token

    def comments(self) -> list[Comment]:
        """Return all comments, oldest first."""
        found: list[Comment] = []
        page = 1
        while True:
            rows: list[Comment] = self._ask("GET", f"{self._of_this}?per_page={_PAGE}&page={page}")
            found += rows
            if len(rows) < _PAGE:
                return found
            page += 1

    def add(self, body: str) -> None:
        """Write a new comment."""
        self._ask("POST", self._of_this, {"body": body})

    def change(self, comment: int, body: str) -> None:
        """Replace the text of a comment."""
        self._ask("PATCH", f"{self._comments}/{comment}", {"body": body})

    def remove(self, comment: int) -> None:
        """Delete a comment."""
        self._ask("DELETE", f"{self._comments}/{comment}")

    def _ask(self, method: str, url: str, value: Comment | None = None) -> Any:  # noqa: ANN401 - as JSON
        for left in reversed(range(_TRIES)):
            try:
                return self._once(method, url, value)
            except urllib.error.HTTPError as error:
                if error.code in _REFUSED:
                    raise NoComment(f"this token may not comment here ({error.code})") from error
                if error.code not in _PASSING or not left:
                    raise NoComment(f"{method} was answered with {error.code}") from error
            except OSError as error:
                if not left:
                    raise NoComment(f"{method} failed: {error}") from error
            time.sleep(_TRIES - left)
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, url: str, value: Comment | None) -> Any:  # noqa: ANN401 - as JSON
        data = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(url, data=data, method=method)  # noqa: S310 - the runner's own API
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("Authorization", f"Bearer {self._token}")
        request.add_header("Content-Type", "application/json")
        request.add_header("User-Agent", "reconciler")
        request.add_header("X-GitHub-Api-Version", "2022-11-28")
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - see above
            text = answer.read()
        return json.loads(text) if text else []


def main() -> None:
    """Bring the comments of the pull request of this event up to date; tell what was done."""
    try:
        event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
        if "pull_request" not in event:
            _tell("this is no event of a pull request: there is nothing to comment on")
            return
        issue = Issue(
            os.environ["GITHUB_API_URL"],
            os.environ["GITHUB_REPOSITORY"],
            event["pull_request"]["number"],
            os.environ["GITHUB_TOKEN"],
        )
        _keep(issue, *_wanted(event["pull_request"]["head"]["sha"]))
    except NoComment as why:
        print(f"::notice title=No comment::{why}; the summary of the step has the plan.")


def _wanted(commit: str) -> tuple[list[str], bool]:
    """Return the texts that comments should have, and whether there should be any where there are none yet."""
    report = Path(os.environ["REPORT"])
    plan, valid = report / "plan.md", os.environ.get("VALID") == "true"
    text = (plan if plan.exists() else report / "findings.md").read_text(encoding="utf-8")
    parts = [part for part in _SPLIT.split(text) if part.strip()]
    name = os.environ.get("NAME", "")
    head = f"**{name}**\n\n" if name else ""
    foot = f"\n\n<sub>For commit {commit[:12]}.</sub>\n"
    return [_fitted(head + part.strip(), foot) for part in parts], plan.exists() or not valid


def _fitted(text: str, foot: str) -> str:
    """Return a text with its foot, cut at a line where both are too long."""
    room = _LIMIT - len(foot) - 200  # of which the marker takes some
    if len(text) <= room:
        return text + foot
    return text[: text.rfind("\n", 0, room - len(_LEFT_OUT))] + _LEFT_OUT + foot


def _keep(issue: Issue, texts: list[str], wanted: bool) -> None:  # noqa: FBT001 - the pair that _wanted returns
    known = _ours(issue)
    if not known and not wanted:
        _tell("there is no plan, and nothing is wrong: no comment")
        return
    for number, text in enumerate(texts, 1):
        marker = _marker(number)
        body = f"{marker}\n{text}"
        same = known.pop(number, [])
        if not same:
            issue.add(body)
            _tell(f"comment {number} was added")
        elif same[0]["body"].replace("\r\n", "\n").strip() != body.strip():
            issue.change(same[0]["id"], body)
            _tell(f"comment {number} was changed")
        for comment in same[1:]:
            issue.remove(comment["id"])
    for comment in [comment for comments in known.values() for comment in comments]:
        issue.remove(comment["id"])
        _tell("a comment that is not needed any more was removed")


def _ours(issue: Issue) -> dict[int, list[Comment]]:
    """Return our comments by their number, as their markers say; more than one where two runs met."""
    found: dict[int, list[Comment]] = {}
    pattern = re.compile(rf"<!-- reconciler:{re.escape(_key())}:(\d{{1,3}}) -->")
    for comment in issue.comments():
        match = pattern.match(comment["body"] or "")
        if match and (comment["user"] or {}).get("login") == os.environ["AUTHOR"]:
            found.setdefault(int(match[1]), []).append(comment)
    return found


def _marker(number: int) -> str:
    return f"<!-- reconciler:{_key()}:{number} -->"


def _key() -> str:
    return re.sub(r"[^a-z0-9.]", "-", os.environ.get("NAME", "").lower()) or "default"


def _tell(text: str) -> None:
    print(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
