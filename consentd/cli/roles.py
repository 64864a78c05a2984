"""``consentd roles``: print the table of who may call what, by which the daemon authorizes every RPC."""

import argparse

from consentd.cli.options import Verbs, add_verb
from consentd.cli.out import DONE, Out
from consentd.service.roles import REDUCED, TABLE, Access, Kind, Whose

_HELP = """\
A caller of several kinds, such as a relay with the right ACT_FOR_SUBJECTS, gets the widest of its cells.
The services of gRPC itself, health and reflection, are open to everybody. By HTTP, whoever may call ListLeaves gets
entry bundles.
"""
_KINDS: dict[Kind, tuple[str, str, str]] = {
    Kind.NOBODY: ("no", "인증 정보가 없거나 알 수 없음", "without a credential, or with an unknown one"),
    Kind.UNREGISTERED: ("un", "등록되지 않은 기관의 인증 정보", "credential without a registration"),
    Kind.INACTIVE: ("in", "탈퇴한 참여기관", "participant that has left"),
    Kind.HOLDER: ("ho", "제공기관", "holder"),
    Kind.RECIPIENT: ("re", "활용기관", "recipient"),
    Kind.RELAY: ("rl", "중계전문기관", "relay"),
    Kind.AUDITOR: ("au", "감사기관", "auditor"),
    Kind.PUBLIC_AUTHORITY: ("pa", "공공기관·법원", "public authority"),
    Kind.SEE_REASONS: ("sr", "권한 SEE_REASONS", "right SEE_REASONS"),
    Kind.ACT_FOR_SUBJECTS: ("as", "권한 ACT_FOR_SUBJECTS", "right ACT_FOR_SUBJECTS"),
    Kind.READ_STATEMENTS: ("rs", "권한 READ_STATEMENTS와 감사 명령", "right READ_STATEMENTS, with a mandate"),
    Kind.ERASE: ("er", "권한 ERASE", "right ERASE"),
    Kind.CITIZEN: ("ci", "로그인한 본인", "citizen who has logged in"),
    Kind.CITIZEN_KEY: ("ck", "본인 키로 서명한 본인", "citizen whose own key signed the call"),
    Kind.RUN: ("or", "운영자, 역할 RUN", "operator with the role RUN"),
    Kind.READ_METRICS: ("om", "운영자, 역할 READ_METRICS", "operator with the role READ_METRICS"),
    Kind.ADMINISTER: ("oa", "운영자, 역할 ADMINISTER", "operator with the role ADMINISTER"),
}
_ACCESS: dict[Access, tuple[str, str, str]] = {
    Access.ALLOWED: ("A", "허용", "allowed"),
    Access.REDUCED: ("r", "제한된 응답", "reduced answer"),
    Access.NOT_FOUND: ("n", "없는 것으로 응답", "answered as not found"),
    Access.DENIED: ("-", "거부", "denied"),
}
_WHOSE: dict[Whose, tuple[str, str]] = {
    Whose.PUBLIC: ("공개", "public"),
    Whose.OWN: ("자기 관여", "own"),
    Whose.SUBJECT: ("본인 명의", "subject"),
    Whose.OWN_THEN: ("자기 관여, 과거 시점", "own, at an earlier tree"),
    Whose.SUBJECT_THEN: ("본인 명의, 과거 시점", "subject, at an earlier tree"),
    Whose.OTHER: ("다른 사람", "other"),
    Whose.UNKNOWN: ("미등록자", "unknown"),
}
_LINES: dict[Whose, tuple[str, str]] = {
    Whose.PUBLIC: ("특정인의 정보가 아님", "no person's data"),
    Whose.OWN: (
        "호출자가 관여한 이용과 기록, 호출자의 키와 위임; 본인이 호출하면 본인의 정보",
        "accesses and entries in which the caller has a part, its keys and delegations; a person's own data",
    ),
    Whose.SUBJECT: (
        "질문하는 본인의 정보, 사람의 키", "data of the person for whom the question asks; a person's keys",
    ),
    Whose.OTHER: ("등록된 사람의 그 밖의 정보", "other data of a person who is enrolled"),
    Whose.UNKNOWN: ("등록되지 않은 사람의 정보", "data of a person who is not enrolled"),
}  # fmt: skip


def add_verbs(verbs: Verbs) -> None:
    """Add the verb of this module to the parser."""
    add_verb(verbs, "roles", roles, more=_HELP)


def roles(arguments: argparse.Namespace, out: Out) -> int:
    """List who may call what, by kind of caller and whose data it is about."""
    if not out.as_json:
        _show_legend(out)
    columns = "  ".join(column for column, *_ in _KINDS.values())
    for rpc, lines in TABLE.items():
        if not out.as_json:
            out.lines(f"\n{rpc:<34}{columns}")
        for whose, cells in lines.items():
            letters = "   ".join(_ACCESS[cells[kind]][0] for kind in Kind)
            out.answer(
                *(f"  {_padded(text, 32)}{letters}" for text in _WHOSE[whose]),
                type="role", rpc=rpc, whose=whose, cells={kind: cells[kind].name.lower() for kind in Kind},
            )  # fmt: skip
        if rpc in REDUCED and not out.as_json:
            out.answer(*(f"  r: {text}" for text in REDUCED[rpc]))
    return DONE


def _show_legend(out: Out) -> None:
    for column, *labels in _KINDS.values():
        out.answer(*(f"{column}: {text}" for text in labels))
    for letter, *labels in _ACCESS.values():
        out.answer(*(f"{letter}: {text}" for text in labels))
    for whose, meaning in _LINES.items():
        out.answer(*(f"{name}: {text}" for name, text in zip(_WHOSE[whose], meaning, strict=True)))


def _padded(text: str, width: int) -> str:
    """Pad a text to a width in columns of a terminal. A Korean letter takes two."""
    return text + " " * (width - sum(2 if ord(letter) > 0x1100 else 1 for letter in text))
