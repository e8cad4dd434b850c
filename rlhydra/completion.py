"""Completion of `python -m rlhydra` in bash: Hydra's own knows executables and files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

INSTALL = """\
_rlhydra_module() {
    case $COMP_LINE in *" -m rlhydra "*) ;; *) return ;; esac
    local line="rlhydra ${COMP_LINE#* -m rlhydra }"
    COMPREPLY=($(compgen -W "$(
        COMP_LINE=$line COMP_POINT=${#line} "${COMP_WORDS[0]}" -m rlhydra -sc query=bash 2>/dev/null
    )" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _rlhydra_module python python3"""
SCRIPTS = {"install=bash": INSTALL, "uninstall=bash": "complete -r python python3"}


def module_script(argv: Sequence[str]) -> str | None:
    """Return what bash shall read, where `python -m rlhydra` was asked for it."""
    asked = any(word in ("-sc", "--shell-completion") for word in argv)
    if not asked or Path(argv[0]).name != "__main__.py":
        return None
    return next((SCRIPTS[word] for word in argv if word in SCRIPTS), None)
