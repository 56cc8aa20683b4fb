"""The words so far -> how the last one may go on; and the scripts that ask this of us in bash, zsh and fish."""

from __future__ import annotations

import sys

from qeffbuild.cli import places
from qeffbuild.cli.composed import Kept

TYPE_CHECKING = False  # typing's own would load typing
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Index = dict[str, Any]  # verbs: name -> operands; flags: name -> values; keys: key -> values


def complete(words: list[str]) -> int:
    """Print one candidate a line for the last of `words`. Never fails: a TAB has nobody to read an error."""
    try:
        sys.stdout.write("".join(f"{candidate}\n" for candidate in candidates(words, _index(words))))
    except BrokenPipeError:
        raise
    except Exception:
        return 1
    return 0


def candidates(words: Sequence[str], index: Index) -> list[str]:
    *before, word = words or [""]
    previous = before[-1] if before else ""
    if values := index["flags"].get(previous):
        return _beginning(word, values)
    if word.startswith("-"):
        return _beginning(word, index["flags"])
    if "=" in word:
        key, _, value = word.partition("=")
        plain = key.lstrip("+")
        # The last of several values of a sweep: quantization=none,int8
        done, comma, last = value.rpartition(",")
        return [f"{key}={done}{comma}{choice}" for choice in _beginning(last, index["keys"].get(plain, ()))]
    if operands := index["verbs"].get(previous):
        return _beginning(word, operands)
    keys = [f"{key}=" for key in index["keys"]]
    if "." not in word:
        keys = sorted({key if "." not in key else f"{key.partition('.')[0]}." for key in keys})
    used = set(before)
    return [*(verb for verb in _beginning(word, index["verbs"]) if verb not in used), *_beginning(word, keys)]


def _beginning(word: str, choices: Sequence[str]) -> list[str]:
    return [choice for choice in choices if choice.startswith(word)]


def _index(words: list[str]) -> Index:
    """What can be said, from the cache when nothing that it was read from has changed."""
    cached = Kept(places.cache_root(words))
    index = cached.load("complete", [])
    if index is None:
        index = _read_index()
        cached.keep("complete", [], index)
    return index


def _read_index() -> Index:
    from qeffbuild.cli.verbs import VERBS
    from qeffbuild.cli.words import FLAGS
    from qeffbuild.plan.types import GOALS

    values = {"--to": list(GOALS), "--cfg": ["job", "hydra", "all"]}
    return {
        "verbs": {verb.name: list(verb.choices) for verb in VERBS.values()},
        "flags": {name: values.get(name, []) for name in FLAGS},
        "keys": {**dict(_keys()), **_groups()},
    }


def _groups() -> dict[str, list[str]]:
    """The configuration groups of all folders and their choices."""
    from pathlib import Path

    choices: dict[str, set[str]] = {}
    for folder in places.conf_folders():
        for path in Path(folder).glob("*/*.yaml"):
            choices.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(names) for group, names in sorted(choices.items())}


def _keys() -> Iterator[tuple[str, list[str]]]:
    """Every key of a build and, where they are few, its values."""
    from dataclasses import fields, is_dataclass
    from typing import get_type_hints

    from qeffbuild import backends
    from qeffbuild.spec.types import BuildSpec

    for name, kind in get_type_hints(BuildSpec).items():
        if not is_dataclass(kind):
            yield name, []
        elif name != "backend":
            hints = get_type_hints(kind)
            yield from ((f"{name}.{field.name}", _values(hints[field.name])) for field in fields(kind))
    for backend in backends.names():
        options = backends.room(backend, "options").Options
        hints = get_type_hints(options)
        yield from ((f"backend.{field.name}", _values(hints[field.name])) for field in fields(options))


def _values(kind: Any) -> list[str]:
    from typing import Literal, get_args, get_origin

    if kind is bool or bool in get_args(kind):
        return ["true", "false"]
    return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []


def script(shell: str) -> str:
    """What `eval "$(qeffbuild completion SHELL)"` reads."""
    return SCRIPTS[shell]


SCRIPTS = {
    "bash": r"""_qeffbuild() {
    local line="${COMP_LINE:0:COMP_POINT}" word candidate
    local -a words
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]}-1]}"
    # bash breaks words at = and :, so it must be given only what follows the last break.
    local cut="${word%"${word##*[=:]}"}"
    COMPREPLY=()
    while IFS= read -r candidate; do
        [[ $candidate == *[=.] ]] || candidate+=" "
        COMPREPLY+=("${candidate#"$cut"}")
    done < <(qeffbuild --complete "${words[@]:1}" 2>/dev/null)
}
complete -o nospace -o default -F _qeffbuild qeffbuild
""",
    "zsh": r"""#compdef qeffbuild
_qeffbuild() {
    local -a all open
    all=("${(@f)$(qeffbuild --complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    open=(${(M)all:#*[=.]})
    all=(${all:#*[=.]})
    (( $#open )) && compadd -S '' -- $open
    (( $#all )) && compadd -- $all
    (( $#open + $#all )) || _files
}
if [ "$funcstack[1]" = "_qeffbuild" ]; then _qeffbuild "$@"; else compdef _qeffbuild qeffbuild; fi
""",
    "fish": r"""function __qeffbuild_complete
    set -l words (commandline -opc) (commandline -ct)
    qeffbuild --complete $words[2..-1] 2>/dev/null
end
complete -c qeffbuild -f -a '(__qeffbuild_complete)'
complete -c qeffbuild -n '__fish_seen_subcommand_from verify diff' -F
""",
}
