"""`oslic completion bash|zsh|fish`: a script that completes commands, options and their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ..catalog import Entry, choices_of, entries, help_of, options_of, takes_value

_GLOBAL: Final = ("--help", "--version", "--debug")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=list(SCRIPTS), help="for which shell")


def run(args: argparse.Namespace) -> int:
    print(SCRIPTS[args.shell](list(entries())), end="")
    return 0


def _names(all_entries: Iterable[Entry], *above: str) -> list[str]:
    """The commands below one, or of `oslic`."""
    return [e.words[-1] for e in all_entries if e.words[:-1] == above]


def _nesting(all_entries: Iterable[Entry]) -> list[str]:
    """Commands that have commands of their own."""
    return list(dict.fromkeys(e.words[0] for e in all_entries if len(e.words) > 1))


def _options(entry: Entry) -> list[argparse.Action]:
    return [] if entry.parser is None else options_of(entry.parser)


def bash_script(all_entries: list[Entry]) -> str:
    """For bash 4 and newer; file names are completed by bash itself."""
    values, options = [], []
    for entry in all_entries:
        name = " ".join(entry.words)
        found = _options(entry)
        words = " ".join(text for action in found for text in action.option_strings)
        options.append(f'        "{name}") words="{words}" ;;')
        for action in found:
            if choices := choices_of(action):
                keys = "|".join(f'"{name}:{text}"' for text in action.option_strings)
                values.append(f'        {keys}) words="{" ".join(choices)}" ;;')
            elif takes_value(action):
                keys = "|".join(f'"{name}:{text}"' for text in action.option_strings)
                values.append(f"        {keys}) return ;;")
    nested = "\n".join(
        f'        {name}) if ((COMP_CWORD == 2)); then words="{" ".join(_names(all_entries, name))}"; '
        f'else command+=" ${{COMP_WORDS[2]}}"; fi ;;'
        for name in _nesting(all_entries)
    )
    return f"""# Completion of oslic for bash: made by `oslic completion bash`.
_oslic() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=""
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "{" ".join((*_names(all_entries), *_GLOBAL))}" -- "$current"))
        return
    fi
    case $command in
{nested}
    esac
    if [[ -z $words ]]; then
        case "$command:$before" in
{chr(10).join(values)}
        esac
    fi
    if [[ -z $words && $current == -* ]]; then
        case $command in
{chr(10).join(options)}
        esac
    fi
    [[ -z $words ]] || COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o bashdefault -o default -F _oslic oslic
"""


def zsh_script(all_entries: list[Entry]) -> str:
    """For zsh; to be put into a file `_oslic` of a folder in `$fpath`."""

    def described(pairs: Iterable[tuple[str, str]]) -> str:
        return " ".join(f"'{_zsh(name)}:{_zsh(text)}'" for name, text in pairs)

    def table(*above: str) -> str:
        return described((e.words[-1], e.summary) for e in all_entries if e.words[:-1] == above)

    cases = []
    for entry in all_entries:
        specs = " \\\n                ".join(_zsh_specs(entry))
        cases.append(
            f"        '{' '.join(entry.words)}')\n            _arguments -s \\\n                {specs} ;;"
        )
    nested = "\n".join(
        f"        {name})\n            if (( CURRENT == 3 )); then\n                inner=({table(name)})\n"
        "                _describe command inner\n                return\n            fi\n"
        '            command+=" $words[3]" ;;'
        for name in _nesting(all_entries)
    )
    return f"""#compdef oslic
# Completion of oslic for zsh: made by `oslic completion zsh`.
_oslic() {{
    local -a commands inner
    local command=$words[2]
    if (( CURRENT == 2 )); then
        commands=({table()})
        _describe command commands
        return
    fi
    case $command in
{nested}
    esac
    case $command in
{chr(10).join(cases)}
    esac
}}
if [ "$funcstack[1]" = "_oslic" ]; then _oslic "$@"; else compdef _oslic oslic; fi
"""


def _zsh_specs(entry: Entry) -> Iterator[str]:
    for action in _options(entry):
        assert entry.parser is not None
        text = _zsh(help_of(entry.parser, action)).replace("[", "\\[").replace("]", "\\]")
        value = ""
        if takes_value(action):
            choices = " ".join(choices_of(action))
            value = f":value:({_zsh(choices)})" if choices else ":value:_files"
        for name in action.option_strings:
            yield f"'{name}[{text}]{value}'"
    yield "'*:file:_files'"


def _zsh(text: str) -> str:
    return text.replace("'", "'\\''").replace(":", "\\:")


def fish_script(all_entries: list[Entry]) -> str:
    """For fish."""
    lines = ["# Completion of oslic for fish: made by `oslic completion fish`."]
    for entry in all_entries:
        *above, name = entry.words
        inner = _names(all_entries, *entry.words)
        if above:
            siblings = " ".join(_names(all_entries, *above))
            place = f"__fish_seen_subcommand_from {above[0]}; and not __fish_seen_subcommand_from {siblings}"
        else:
            place = "__fish_use_subcommand"
        lines.append(f"complete -c oslic -n '{place}' -f -a {name} -d {_fish(entry.summary)}")
        if inner:
            continue
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in entry.words)
        for action in _options(entry):
            assert entry.parser is not None
            flags = " ".join(
                f"-l {text[2:]}" if text.startswith("--") else f"-s {text[1:]}"
                for text in action.option_strings
            )
            choices = choices_of(action)
            value = f" -x -a {_fish(' '.join(choices))}" if choices else " -r" if takes_value(action) else ""
            lines.append(
                f"complete -c oslic -n '{seen}' {flags}{value} -d {_fish(help_of(entry.parser, action))}"
            )
    return "\n".join(lines) + "\n"


def _fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SCRIPTS: Final[dict[str, Callable[[list[Entry]], str]]] = {
    "bash": bash_script,
    "zsh": zsh_script,
    "fish": fish_script,
}
"""What makes the script of a shell, by its name."""
