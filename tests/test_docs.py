"""The documents: made from the code where they can be, true where they name a file, command or program."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.end_to_end.application import Application

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
GENERATOR = [sys.executable, "build/message_reference.py"]


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=60)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def prose(page: Path) -> str:
    """The page without its code."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def anchors(page: Path) -> set[str]:
    """What a heading is called in a link: lower case, no punctuation, hyphens."""
    titles = re.findall(r"^#+ +(.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def commands(page: Path) -> list[str]:
    """Every line of a page's shell blocks, joined where it goes on."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [
        line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()
    ]


def program(page: str, name: str) -> str:
    """The Python block that follows ``<!-- program: NAME -->``."""
    text = (ROOT / "docs" / page).read_text()
    found = re.search(
        rf"<!-- program: {re.escape(name)} -->\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )
    assert found, f"docs/{page} has no program {name}"
    return found[1]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        there = file.exists() and file.is_relative_to(ROOT)
        if not there or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_names_a_module_a_script_and_options_that_exist(page: Path) -> None:
    """What a page tells people to type is in the program's own help."""
    for line in commands(page):
        found = re.search(r"\bpython\S* (?:-m ((?:runtime|models)\.\w+)|(build/\w+\.py))([^|#]*)", line)
        if found is None:
            continue
        module, script, rest = found.groups()
        file = ROOT / (script or f"{module.replace('.', '/')}")
        assert file.exists() or file.with_suffix(".py").exists(), line
        source = file if script else file.with_suffix(".py") if file.with_suffix(".py").exists() else None
        texts = [source] if source else sorted(file.glob("*.py"))
        known = "".join(text.read_text() for text in texts)
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest.partition("&&")[0]):
            assert f'"{option}"' in known, f"{option} in: {line}"


@pytest.mark.parametrize(
    ("page", "name"),
    [("first-quarter-hour.md", "react.py"), ("how-to-robot.md", "steady.py"), ("how-to-web.md", "relay.py")],
)
def test_a_program_in_the_docs_is_python_and_marked(page: str, name: str) -> None:
    ast.parse(program(page, name))


def test_the_message_reference_is_up_to_date() -> None:
    checked = run(*GENERATOR, "--check")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_page_that_is_not_up_to_date_is_said_to_be_and_mended(tmp_path: Path) -> None:
    page = tmp_path / "message.md"
    assert run(*GENERATOR, "--check", "--page", page).returncode == 1
    assert run(*GENERATOR, "--write", "--page", page).returncode == 0
    assert page.read_text() == (ROOT / "docs/message.md").read_text()
    page.write_text(page.read_text().replace("`coverage`", "`cover`"))
    checked = run(*GENERATOR, "--check", "--page", page)
    assert checked.returncode == 1 and "--write" in checked.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda fields: fields.update(pulse={"type": "number"}),
            "Modality.pulse is in the schema and has no meaning",
        ),
        (lambda fields: fields.pop("words"), "Modality.words has a meaning and is not in the schema"),
    ],
)
def test_a_field_without_a_meaning_and_a_meaning_without_a_field_are_errors(
    tmp_path: Path, change: Callable[[dict[str, object]], object], said: str
) -> None:
    schema = json.loads((ROOT / "runtime/schema/emotion-stream-1.json").read_text())
    change(schema["$defs"]["Modality"]["properties"])
    changed = tmp_path / "schema.json"
    changed.write_text(json.dumps(schema))
    done = run(*GENERATOR, "--check", "--schema", changed)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_every_field_of_the_schema_stands_in_the_reference() -> None:
    text = (ROOT / "docs/message.md").read_text()
    structs = json.loads((ROOT / "runtime/schema/emotion-stream-1.json").read_text())["$defs"]
    missing = [f for struct in structs.values() for f in struct["properties"] if f"| `{f}` |" not in text]
    assert structs and not missing


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as strictly as mkdocs can."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: mkdocs then counts no warnings, and --strict lets everything pass.
    built = run(sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_is_built_without_a_warning_and_no_link_leaves_it(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        file = site / ("" if page.stem == "index" else page.stem) / "index.html"
        article = file.read_text().partition("<article")[2].partition("</article")[0]
        links = re.findall(r'(?:href|src)="([^"#:]+)(?:#[^"]*)?"', article)
        assert article and not [link for link in links if not (file.parent / link).exists()]


def test_the_site_fetches_nothing_from_other_servers(site: Path) -> None:
    made = (site / "index.html").read_text()
    fetched = re.findall(r"<(?:script|img|iframe)[^>]+src=\"?(https?:[^\s\">]+)", made)
    fetched += re.findall(r"<link[^>]+rel=\"?stylesheet\"?[^>]+href=\"?(https?:[^\s\">]+)", made)
    assert "<article" in made and not fetched


def test_the_citation_is_valid_cff_and_names_the_paper() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and f"\nversion: {version[1]}\n" in text
    assert "10.1109/CVPR52729.2023.00641" in text
    cffconvert = pytest.importorskip("cffconvert")
    cffconvert.Citation(text).validate()


@pytest.fixture
def start(endpoint: str, tmp_path: Path) -> Iterator[Callable[..., Application]]:
    """Start the application with arguments; ended with the test."""
    started: list[Application] = []

    def begin(*arguments: str) -> Application:
        started.append(Application(endpoint, os.environ | {"XDG_CACHE_HOME": str(tmp_path)}, *arguments))
        return started[-1]

    yield begin
    for application in started:
        application.close()


class Program:
    """A program of the docs, run as a reader would, on a free endpoint."""

    def __init__(self, folder: Path, text: str, **changes: str) -> None:
        for name, value in changes.items():
            text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
            assert count == 1, f"{name} is not set once"
        (folder / "program.py").write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def close(self) -> str:
        self.process.kill()
        return self.process.communicate(timeout=10)[0]


def test_the_first_program_prints_what_is_felt_and_ends_in_silence(
    tmp_path: Path, endpoint: str, start: Callable[..., Application]
) -> None:
    reader = Program(tmp_path, program("first-quarter-hour.md", "react.py"), ENDPOINT=repr(endpoint))
    try:
        start("--demo", "--duration", "5").run_to_end()
        said, _ = reader.process.communicate(timeout=20)
    finally:
        reader.close()
    assert reader.process.returncode == 0, said
    assert len(re.findall(r"^\d+ \w+ \d+%$", said, re.MULTILINE)) > 3, said


def test_the_robots_program_decides_seldom_and_notices_silence(
    tmp_path: Path, endpoint: str, start: Callable[..., Application]
) -> None:
    application = start("--demo", "--loop")
    application.read_until(lambda message: message["type"] == "emotion")
    reader = Program(tmp_path, program("how-to-robot.md", "steady.py"), ENDPOINT=repr(endpoint))
    try:
        time.sleep(5)
        application.close()
        said, _ = reader.process.communicate(timeout=20)
    finally:
        reader.close()
    *decisions, last = said.splitlines()
    assert last == "silence: back to neutral behaviour", said
    assert 1 <= len(decisions) <= 4, said  # of some ten windows


def test_the_web_relay_gives_a_page_and_the_events_of_the_stream(
    tmp_path: Path, endpoint: str, start: Callable[..., Application]
) -> None:
    application = start("--demo", "--loop")
    application.read_until(lambda message: message["type"] == "emotion")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    relay = Program(tmp_path, program("how-to-web.md", "relay.py"), ENDPOINT=repr(endpoint), PORT=str(port))
    stop = threading.Timer(15, relay.process.kill)
    stop.start()
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                page = urllib.request.urlopen(address, timeout=5).read()
                break
            except OSError:
                time.sleep(0.1)
        events = []
        with urllib.request.urlopen(f"{address}/events", timeout=10) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            while len(events) < 4:
                line = answer.readline().decode()
                if line.startswith("event: "):
                    message = json.loads(answer.readline().decode().removeprefix("data: "))
                    assert message["type"] == line.split()[1]
                    events.append(message["type"])
    finally:
        stop.cancel()
        relay.close()
    assert b"EventSource" in page and "emotion" in events
