"""The documents are held to what they say: the README's examples are followed, every name in them is looked up."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from typer.main import get_command

from app import cli
from db.schema_version import head
from roles.consume.handlers import CONSUMERS
from roles.schedule.jobs import JOBS
from schema.problems import PROBLEM_TYPES
from schema.settings import Settings
from schema.settings_sources import load_settings
from tests.e2e.support import channel, publish, running
from tests.services import PostgresServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
SOURCES = (
    "clients",
    "commands",
    "db",
    "migrations",
    "roles",
    "schema",
    "app.py",
    "checks.py",
    "alembic.ini",
    "config.toml",
    "pyproject.toml",
)
LONG = 60
"""Seconds; a command of the examples takes one."""

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def section(title: str) -> str:
    """What the README says below a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


@dataclass(frozen=True)
class Step:
    """One block of an example: a whole file, or a change to one."""

    path: str
    language: str
    text: str

    def follow(self, directory: Path) -> None:
        target = directory / self.path
        if self.language == "diff":
            lines = self.text.splitlines()
            old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
            new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
            content = f"\n{target.read_text()}"
            assert content.count(f"\n{old}\n") == 1, f"{self.path} has not exactly one place for:\n{self.text}"
            target.write_text(content.replace(f"\n{old}\n", f"\n{new}\n").removeprefix("\n"))
        else:
            assert not target.exists(), f"{self.path} is there already"
            target.write_text(self.text)


def steps() -> Iterator[Step]:
    """The blocks of the examples in order. The paragraph above a block begins with the file that it is for."""
    path, language, block = "", "", list[str]()
    after_blank = True
    for line in section("Adding your own").splitlines():
        if language and line == "```":
            if path and language in ("python", "toml", "diff"):
                yield Step(path, language, "".join(f"{each}\n" for each in block))
            language = ""
        elif language:
            block.append(line)
        elif line.startswith("```"):
            language, block = line.removeprefix("```"), []
        elif line and after_blank:
            found = re.match(r"`([\w/]+\.\w+)`, ", line)
            path = found[1] if found else ""
        after_blank = not line


STEPS = tuple(steps())
MADE = {step.path for step in STEPS if step.language != "diff"} | {
    f"migrations/versions/{int(head()) + 1:04}_course.py"
}


def run(directory: Path, *arguments: str, **environ: str) -> str:
    """The output of `python -m …` or `python app.py …`, which has to succeed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environ},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def revision_command() -> list[str]:
    found = re.search(r"^\.venv/bin/python (app\.py revision .*)$", section("Adding your own"), re.MULTILINE)
    assert found is not None
    return found[1].split()


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Path:
    """A copy of the repository in which somebody has followed all examples, the migration included."""
    copy = tmp_path_factory.mktemp("followed")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    for step in STEPS:
        step.follow(copy)
    with postgres.database() as url:
        run(copy, *revision_command(), APP_DATABASE__URL=url)
    return copy


def test_there_is_an_example_for_everything_that_one_adds() -> None:
    headings = re.findall(r"^### (.*)$", section("Adding your own"), re.MULTILINE)
    assert headings == [
        "Add an entity",
        "Add a consumer",
        "Publish from a unit of work",
        "Add a job",
        "Add a client",
    ]
    assert {step.path.split("/")[0] for step in STEPS} == {"schema", "db", "roles", "clients", "config.toml"}


def test_the_examples_and_the_generated_migration_pass_the_linter(followed: Path) -> None:
    files = sorted(MADE | {step.path for step in STEPS if step.path.endswith(".py")})
    run(followed, "-m", "ruff", "check", *files)
    run(followed, "-m", "ruff", "format", "--check", *files)


def test_the_generated_migration_makes_what_the_table_says_and_check_is_happy(
    followed: Path, database_url: str, amqp_url: str
) -> None:
    environ = {"APP_DATABASE__URL": database_url, "APP_AMQP__EXAMPLE__URL": amqp_url}
    run(followed, "app.py", "migrate", **environ)
    assert "No new upgrade operations" in run(followed, "-m", "alembic", "check", **environ)
    said = run(followed, "app.py", "check", **environ)
    assert "bad" not in said
    assert f"consumers: {len(CONSUMERS) + 1} declared" in said
    assert f"jobs: {len(JOBS) + 1} declared" in said


@pytest.mark.anyio
async def test_the_examples_work_on_the_real_process(followed: Path, database_url: str, amqp_url: str) -> None:
    with rooms_service() as rooms_url:
        environ = {
            "APP_DATABASE__URL": database_url,
            "APP_DATABASE__MIGRATE": "true",
            "APP_AMQP__EXAMPLE__URL": amqp_url,
            "APP_CLIENTS__ROOMS__URL": rooms_url,
            "APP_SCHEDULE__GRACE": "8d",  # so that a job of working days finds a tick to run
            "DEBUG": "true",
        }
        async with running(followed, environ=environ, script=followed / "app.py") as app:
            made = await app.api.post("/api/v1/courses", json={"title": "Algebra"})
            assert made.status_code == 201, made.text
            assert (await app.api.get(made.headers["location"])).json() == made.json()
            again = await app.api.post("/api/v1/courses", json={"title": "Algebra"})
            assert (again.status_code, again.json()["detail"]) == (409, "There is a course with this title.")
            assert (await app.api.post("/api/v1/courses", json={"title": "\0"})).status_code == 422
            assert (await app.api.get("/api/v1/courses/77")).status_code == 404

            async with channel(amqp_url) as producer:
                for title in ("Algebra", "Botany", "Botany"):
                    await publish(producer, {"title": title}, queue="courses.proposed")

            async def handled() -> bool:
                counts = (await app.consumer("courses.proposed"))["counts"]
                return bool(counts["finished"] == 3 and counts["failed"] == 0)

            await app.until(handled)
            assert (await app.api.post("/api/v1/courses", json={"title": "Botany"})).status_code == 409

            await app.logged("courses reported", job="report_courses", role="schedule")
            room = await app.api.get("/api/v1/rooms/7")
            assert room.json() == {"id": 7, "name": "A1", "seats": 30}
            assert (await app.api.get("/api/v1/rooms/8")).status_code == 404
            assert (await app.api.get("/api/v1/rooms/9")).status_code == 502
            paths = (await app.api.get("/openapi.json")).json()["paths"]
            assert {"/api/v1/courses", "/api/v1/rooms/{room_id}"} <= paths.keys()
            assert await app.stop() == 0


@contextmanager
def rooms_service() -> Iterator[str]:
    """A rooms service with one room, and another one that is broken."""

    class Rooms(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = {"/rooms/7": 200, "/rooms/9": 500}.get(self.path, 404)
            body = b'{"id": 7, "name": "A1", "seats": 30, "beamer": true}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    with HTTPServer(("127.0.0.1", 0), Rooms) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def settings() -> dict[str, str]:
    """The default of every setting, as it is written in TOML."""
    loaded = load_settings(environ={}, directory=ROOT / "docs")
    return {name: value for name, value, _ in loaded.rows()}


def environment_name(setting: str) -> str:
    return "APP_" + setting.upper().replace(".", "__")


def test_the_settings_table_has_every_setting_with_its_default_and_its_name_in_the_environment() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| `(\w+)` \| (.+) \|$", section("Settings"), re.MULTILINE)
    assert {name: default for name, default, _, _ in rows} == settings()
    assert {name: variable for name, _, variable, _ in rows} == {name: environment_name(name) for name in settings()}


@each_document
def test_every_variable_that_is_named_is_a_setting(document: Path) -> None:
    known = {environment_name(name) for name in settings()}
    assert set(re.findall(r"\bAPP_\w+", document.read_text())) <= known


@each_document
def test_every_name_of_our_code_is_one(document: Path) -> None:
    unknown = []
    for name in re.findall(r"`((?:[a-z_]+\.)+\w+)(?:\(.*?\))?`", document.read_text()):
        first = name.split(".")[0]
        is_setting = name in settings() or (first in Settings.model_fields and name.startswith("amqp."))
        if (first in ("commands", "roles", "db", "schema", "clients") or first in Settings.model_fields) and not (
            is_setting or resolves(name) or (ROOT / name).exists()
        ):
            unknown.append(name)
    assert unknown == []


def resolves(name: str) -> bool:
    """Whether a dotted name is that of a module of ours, or of something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[end:]:
                found = getattr(found, part)
        except AttributeError:
            return False
        return True
    return False


@each_document
def test_every_path_that_is_named_exists(document: Path) -> None:
    paths = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", document.read_text())) - MADE
    ours = [path for path in sorted(paths) if path[0] != "." and (ROOT / path.split("/")[0]).exists()]
    assert [path for path in ours if not (ROOT / path).exists()] == []


@each_document
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_every_command_line_is_one_that_the_program_takes(document: Path) -> None:
    wrong = []
    for line in re.findall(r"\bapp\.py((?: +(?:--)?[\w,.…-]+)*)", document.read_text()):
        words = line.split("#")[0].split()
        commands = [get_command(cli)]
        for word in words:
            verbs = getattr(commands[-1], "commands", {})  # Typer's own copy of Click has no types
            if word in verbs:
                commands.append(verbs[word])
        allowed = {"--help"}
        for each in commands:
            allowed |= {option for parameter in each.params for option in parameter.opts}
        wrong += [f"app.py{line}" for word in words if word.startswith("--") and word not in allowed]
    assert wrong == []


@each_document
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:`|^)make ([a-z]+)", document.read_text(), re.MULTILINE)
    assert set(named) <= set(targets)


def test_everything_on_the_map_exists_and_everything_that_runs_is_on_it() -> None:
    found = re.search(r"^```\n(.*?)^```$", section("The map"), re.MULTILINE | re.DOTALL)
    assert found is not None
    parents: list[str] = []
    paths = set()
    for line in found[1].splitlines():
        place = re.match(r"([│├└─ ]*)([\w.]+/?)", line)
        assert place is not None, line
        depth = len(place[1]) // 4
        parents[depth:] = [place[2].rstrip("/")]
        paths.add("/".join(parents))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    packages = {str(file.parent.relative_to(ROOT)) for file in ROOT.glob("*/__init__.py")}
    assert packages | {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("roles/*/__init__.py")} <= paths


def test_every_decision_is_in_the_list_of_them() -> None:
    directory = ROOT / "docs" / "adr"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (directory / "README.md").read_text())
    assert listed == sorted(path.name for path in directory.glob("[0-9]*.md"))


def test_the_changelog_begins_with_the_version_of_the_program() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    released = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version in released[:2]


def test_the_readme_says_where_the_ports_are() -> None:
    ports = {httpx.URL(f"http://{address}").port for address in (Settings().api.bind, Settings().ops.bind)}
    assert {int(port) for port in re.findall(r"127\.0\.0\.1:(809\d)", README)} == ports


def test_every_type_of_problem_is_in_the_table_of_them() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    rows = re.findall(r"^\| `(/problems/[\w-]+)` \| (\d+) \|", text, re.MULTILINE)
    assert rows == [(kind.type, str(kind.status)) for kind in PROBLEM_TYPES]


def test_what_must_not_come_back_has_its_tests() -> None:
    table = (
        (ROOT / "docs" / "architecture.md").read_text().partition("## What must not come back")[2].partition("## ")[0]
    )
    named = re.findall(r"`(tests/[\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", table)
    assert len(named) >= 7
    for path, names in named:
        source = (ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in source, f"{path}: {name}"
