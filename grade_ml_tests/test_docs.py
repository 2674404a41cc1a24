"""What the README and the documents show is done as it is written, by copying.

The folder is a checkout of its own without an activated environment, on the small campus of
docs/application.md, with the libraries that `make up` installs. A block that cannot be executed
here says why in a comment before it: `<!-- not executed: REASON -->`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from grade_ml.cli import group
from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS
from grade_ml_tests import REPOSITORY
from grade_ml_tests.absent import beyond_the_demo, hiding
from grade_ml_tests.launch import free_port, wait_until

PAGES = (
    "README.md",
    *sorted(str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("docs/**/*.md")),
)
CONSOLE = {"console", "bash", "sh"}
EXECUTED = {*CONSOLE, "python", "sql"}
BLOCK = re.compile(
    r"(?:^<!-- not executed: ?(?P<reason>[^>]*?) ?-->\n+)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
#: Would run this very test.
OURSELVES = "make test"
#: Is executed last: what it starts by itself would keep all others waiting.
UP = "make up"
#: Is done by itself on the first day.
FORECASTS = ".venv/bin/grade-ml run generate_time_series_forecasts"
#: Against what hangs, before the test itself is out of time: a training takes a minute.
SECONDS = 500


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The commands of a console, each as it is written but for comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: str) -> Iterator[Block]:
    text = (REPOSITORY / page).read_text()
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        yield Block(page, line, match["language"], match["text"], match["reason"])


BLOCKS = [block for page in PAGES for block in blocks(page)]
SHOWN = [block for block in BLOCKS if block.language in EXECUTED and block.reason is None]
#: Makes the installation in which everything else is done.
(FIRST,) = [block for block in SHOWN if block.text.startswith("export ")]


def test_every_block_names_its_language_and_whoever_is_not_executed_why():
    assert len(BLOCKS) == sum((REPOSITORY / page).read_text().count("\n```") for page in PAGES) / 2
    assert not [str(block) for block in BLOCKS if not block.language]
    excused = {str(block): block.reason for block in BLOCKS if block.reason is not None}
    assert not [block for block, reason in excused.items() if len(reason.split()) < 3]
    print(*excused.items(), sep="\n")


def calls(program: str) -> list[tuple[str, ...]]:
    """Return the words after `program` of each call in blocks and inline code of all pages."""
    words = []
    for page in PAGES:
        text = (REPOSITORY / page).read_text()
        code = [block.text for block in blocks(page) if block.language in CONSOLE]
        spans = re.findall(r"`([^`\n]+(?:\n[^`\n|]+)?)`", BLOCK.sub("", text))
        code += [span.replace("\n", " ") for span in spans]
        joined = "\n".join(code).replace("\\\n", " ")
        words += re.findall(
            rf"^(?:\w+=\S+ )*(?:\S+/)?{program}((?: [^\s#()]+)*)", joined, re.MULTILINE
        )
    return sorted({tuple(call.replace("…", "").split()) for call in words})


def test_every_make_command_is_a_target_and_its_options_are_variables():
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split())
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    variables = set(re.findall(r"^(\w+) \?=", makefile, re.MULTILINE))
    shown = [words for words in calls("make") if words]
    assert {"up", "test"} <= {words[0] for words in shown} <= targets
    given = {word.split("=")[0] for words in shown for word in words if "=" in word}
    assert given and given <= variables


@pytest.mark.parametrize("words", calls("grade-ml"), ids=" ".join)
def test_a_command_is_understood(words: tuple[str, ...]):
    command: click.Command = group
    context = click.Context(command)
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            break
        name, words = words[0], words[1:]
        subcommand = command.get_command(context, name)
        assert subcommand, f"{name} is not among {command.list_commands(context)}"
        command, context = subcommand, click.Context(subcommand, parent=context)
    values, _, _ = command.make_parser(context).parse_args(list(words))
    if isinstance(job := values.get("job"), str):
        assert job in {*JOB_DESCRIPTIONS, "JOB"}


class Checkout:
    """A copy of the project, and a shell in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder / "grade_ml", free_port()
        ignored = (REPOSITORY / ".gitignore").read_text().replace("/", "").split()
        shutil.copytree(REPOSITORY, self.folder, ignore=shutil.ignore_patterns(".git", *ignored))
        environment = self.folder / ".venv"
        environment.mkdir()
        for part in Path(sys.prefix).iterdir():
            if not part.name.startswith("."):
                (environment / part.name).symlink_to(part)
        # In the order in which `make` makes them: nothing is installed into the tests' libraries.
        for stamp in (".created", ".installed-demo"):
            (environment / stamp).touch()
        user = folder / "user"
        user.mkdir()
        bins = [
            directory
            for directory in os.environ["PATH"].split(":")
            if not directory.startswith(sys.prefix)
        ]
        hidden = hiding(beyond_the_demo(), user)
        self._environment = {
            **hidden,
            "PATH": ":".join(bins),
            "HOME": str(user),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "2",
            "PORT": str(self.port),
            "PYTHONPATH": f"{hidden['PYTHONPATH']}:{self.folder}",
        }
        self._run = cache(self._execute)

    def export(self, words: list[str]) -> None:
        self._environment |= dict(word.split("=", 1) for word in words)

    def run(self, *words: str, script: str | None = None) -> str:
        """Return what a command prints that succeeds; the same command is executed once."""
        return self._run(words, script)

    def _execute(self, words: tuple[str, ...], script: str | None) -> str:
        ran = subprocess.run(
            words,
            input=script,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def bash(self, command: str) -> str:
        return self.run("bash", "-c", command)

    def python(self, script: str) -> str:
        return self.run(".venv/bin/python", "-", script=script)

    def start(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("w") as output:
            return subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose installation was made by the commands of docs/application.md."""
    made = Checkout(tmp_path_factory.mktemp("docs"))
    for command in FIRST.commands:
        name, *words = shlex.split(command)
        made.export(words) if name == "export" else made.bash(command)
    return made


#: A call of the engine, in the line or as a block, and its answer.
CALL = re.compile(
    r"(engine\.[^`]*\.to_dict\(\)[^`\n]*)`?[^`]*(?:```\n[^`]*)?```json\n(.*?)```", re.DOTALL
)
ANSWERS = """
import json
from grade_ml.engine import PredictiveAnalyticsEngine

with PredictiveAnalyticsEngine() as engine:
    print(json.dumps([{calls}]))
"""


def answers_shown() -> dict[str, Any]:
    """Return by call the answers in the page of `FIRST` that are of its day."""
    shown = {
        call.strip(): json.loads(text)
        for call, text in CALL.findall((REPOSITORY / FIRST.page).read_text())
    }
    return {
        call: answer
        for call, answer in shown.items()
        if isinstance(answer, list) or f"GRADE_ML_AS_OF={answer['as_of']}" in FIRST.text
    }


@pytest.mark.slow
def test_answers_are_those_that_are_shown(checkout: Checkout):
    shown = answers_shown()
    assert len(shown) >= 2
    given = json.loads(checkout.python(ANSWERS.format(calls=", ".join(shown))))
    for answer, expected in zip(given, shown.values(), strict=True):
        assert flat(answer) == {
            key: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
            for key, value in flat(expected).items()
        }


#: When the campus was loaded, and how long ago.
OF_THE_LOAD = {"records_from", "age_hours"}


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Return by their paths the values of nested lists and mappings that are always the same."""
    if not isinstance(value, dict | list):
        return {key: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    known = ((name, part) for name, part in parts if name not in OF_THE_LOAD)
    return {k: v for name, part in known for k, v in flat(part, f"{key}/{name}").items()}


QUERIES = """
from grade_ml.core import database
from grade_ml.core.settings import Settings

engine = database.connect(database.start(Settings.from_environment()).grade_ml)
for query in {queries!r}:
    with engine.connect() as connection:  # and nothing is committed
        connection.exec_driver_sql(query)
"""


@pytest.mark.slow
def test_queries(checkout: Checkout):
    checkout.python(
        QUERIES.format(queries=[block.text for block in SHOWN if block.language == "sql"])
    )


def changes_the_campus(text: str) -> bool:
    return "load simulated" in text or "load_campus(" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    # What changes the campus comes last.
    sorted(
        (block for block in SHOWN if block.language in CONSOLE and block is not FIRST),
        key=lambda block: changes_the_campus(block.text),
    ),
    ids=str,
)
def test_commands(block: Block, checkout: Checkout):
    for command in block.commands:
        if "--forecast" in command:
            checkout.bash(FORECASTS)
        if command not in {UP, OURSELVES}:
            checkout.bash(command)


#: Pages by their programs: a later block of a page continues where an earlier block ended.
PROGRAMS = {
    page: program
    for page in PAGES
    if (program := "\n".join(b.text for b in SHOWN if (b.page, b.language) == (page, "python")))
}


#: Connect to the server that the demo keeps running.
BESIDE_THE_DEMO = {"docs/published.md"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PROGRAMS if page not in BESIDE_THE_DEMO])
def test_programs(page: str, checkout: Checkout):
    checkout.python(PROGRAMS[page])


@pytest.fixture
def demo(checkout: Checkout, tmp_path: Path) -> Iterator[None]:
    """What the first command of the README starts, until Ctrl-C."""
    assert UP in next(iter(SHOWN)).commands
    log = tmp_path / "log"
    up = checkout.start(UP, log)
    try:
        wait_until(lambda: "Ctrl-C stops everything" in log.read_text() or up.poll(), UP)
        assert f"is up: http://127.0.0.1:{checkout.port}" in log.read_text(), log.read_text()
        yield
    finally:
        os.killpg(up.pid, signal.SIGINT)
        up.wait(60)
    assert log.read_text().endswith("Stopped.\n")


@pytest.mark.slow
@pytest.mark.usefixtures("demo")
def test_programs_beside_the_demo(checkout: Checkout):
    for page in sorted(BESIDE_THE_DEMO):
        checkout.python(PROGRAMS[page])
