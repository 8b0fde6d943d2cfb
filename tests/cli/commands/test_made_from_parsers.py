"""What is made of the commands' parsers: examples, completion scripts, the manual page; and what the package brings."""

from __future__ import annotations

import contextlib
import io
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest
from oslic.cli import main as cli
from oslic.cli.catalog import entries, options_of
from oslic.cli.commands.doctor import DESKTOP
from oslic.cli.examples import EXAMPLES
from oslic.runtime.codec.container import MAGIC
from oslic.runtime.pillow import MIME


@pytest.fixture(scope="module")
def commands():
    return {" ".join(entry.words): entry for entry in entries()}


def _calls(example):
    """The calls of `oslic` in a line for a shell, as words behind `oslic`."""
    for part in example.split(" | "):
        words = shlex.split(part.split(" > ")[0])
        if words[0] == "oslic":
            yield words[1:]


def test_every_command_has_an_example_that_its_parser_takes(commands):
    assert set(commands) == set(EXAMPLES), "cli/examples.py has one for each command, and no others"
    for name, entry in commands.items():
        for example in EXAMPLES[name]:
            calls = list(_calls(example))
            assert calls
            for words in calls:
                assert words[: len(entry.words)] == list(entry.words)
                if entry.parser is not None:
                    said = io.StringIO()
                    try:
                        with contextlib.redirect_stderr(said):
                            entry.parser.parse_args(words[len(entry.words) :])
                    except SystemExit:
                        pytest.fail(f"{example}: {said.getvalue()}")


@pytest.mark.parametrize("words", [["compress"], ["bench", "latency"], ["flif", "encode"], ["doctor"], []])
def test_help_shows_the_example(capsys, words):
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    examples = EXAMPLES[" ".join(words)] if words else ("oslic compress photo.jpg",)
    assert all(f"\n  {example}" in out for example in examples)


def test_help_explains_every_command(commands):
    assert {name for name in commands if " " not in name} == set(cli.COMMANDS)
    assert {"bench rd", "flif encode", "train codec"} <= set(commands)
    assert all(entry.summary for entry in commands.values())


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = tmp_path_factory.mktemp("completion") / "oslic"
    with script.open("w") as file, contextlib.redirect_stdout(file):
        assert cli.main(["completion", "bash"]) == 0

    def complete(*words):
        code = (
            f"source {script}; COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}; _oslic; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return complete


def test_bash_completes_commands_options_and_values(bash):
    assert bash("oslic", "comp") == ["compress", "compare", "completion"]
    assert bash("oslic", "compress", "--lay") == ["--layers"]
    assert bash("oslic", "compress", "--layers", "") == ["always", "auto", "never"]
    assert bash("oslic", "bench", "lat") == ["latency"]
    assert bash("oslic", "bench", "latency", "--prof") == ["--profile"]
    assert bash("oslic", "flif", "en") == ["encode"]
    assert bash("oslic", "decompress", "--format", "j") == ["jpeg"]
    # Names of files are left to bash.
    assert bash("oslic", "compress", "pho") == []
    assert bash("oslic", "compress", "-o", "--quality") == []


@pytest.mark.parametrize(("shell", "check"), [("bash", "bash -n"), ("zsh", "zsh -n"), ("fish", "fish -n")])
def test_scripts_name_every_command_and_option(commands, tmp_path, capsys, shell, check):
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for entry in commands.values():
        assert entry.words[-1] in text
        for action in [] if entry.parser is None else options_of(entry.parser):
            for name in action.option_strings:
                assert name.lstrip("-") in text
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(text)
        subprocess.run([*check.split(), str(tmp_path / "script")], check=True)


def test_the_manual_page(commands, tmp_path, capsys):
    assert cli.main(["man"]) == 0
    text = capsys.readouterr().out
    page = tmp_path / "oslic.1"
    assert cli.main(["man", "-o", str(page)]) == 0
    assert page.read_text() == text
    assert text.startswith('.TH OSLIC 1 "" "oslic 0.')
    for name in commands:
        assert f".SS {name}" in text
    for code in range(13):
        assert f".B {code}\n" in text
    if shutil.which("groff") is not None:
        done = subprocess.run(["groff", "-man", "-Tascii", "-ww", str(page)], capture_output=True, check=True)
        assert done.stderr == b""
        assert b"oslic compress photo.jpg" in done.stdout


def test_the_type_for_desktops():
    root = ET.parse(DESKTOP / "oslic.xml").getroot()
    space = "{http://www.freedesktop.org/standards/shared-mime-info}"
    kind = root.find(f"{space}mime-type")
    assert kind is not None
    assert kind.get("type") == MIME
    match = kind.find(f"{space}magic/{space}match")
    assert match is not None
    assert match.get("value").encode().decode("unicode_escape").encode("latin-1") == MAGIC
    assert kind.find(f"{space}glob").get("pattern") == "*.oslic"


@pytest.mark.skipif(shutil.which("file") is None, reason="file(1) is not installed")
def test_the_entry_for_file(tmp_path):
    stream = tmp_path / "x.oslic"
    stream.write_bytes(MAGIC + bytes([0x20]) + bytes(50))
    magic = str(DESKTOP / "oslic.magic")
    for words, wanted in (([], "OSLIC image, version 2.0"), (["--mime-type"], MIME)):
        done = subprocess.run(
            ["file", "-b", *words, "-m", magic, str(stream)], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == wanted
