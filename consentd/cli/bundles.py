"""``consentd audit bundle`` and ``check-bundle``: records with all that proves them, in one file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.options import Verbs, add_pins, add_verb, read_bytes, read_identifier, read_pins, read_policy
from consentd.cli.out import DONE, PROVEN, UNDETERMINED, Out
from consentd.cli.sources import SOURCE_HELP_FROM, add_ledger_source, read_ledger_source
from consentd.errors import InvalidError

if TYPE_CHECKING:
    from consentd.audit.bundle import Scope
    from consentd.audit.sources import Place

_MAKE_MORE = f"""\
One pass over the ledger, which is verified on the way. Openings go in as far as the caller may see them.

--subject finds the person's tag in the operator's vault (--config, the daemon stopped); the file itself is made of the
tag. Statements go in as they were signed, and a question that was asked names the person it was about: the file is as
confidential as the record, and is written for its owner alone.

{SOURCE_HELP_FROM}
examples:
  consentd audit bundle case-7.zip --range 1200:1300 --config ops/consentd.toml
  consentd audit bundle case-8.zip --subject - --config ops/consentd.toml        SCHEME:VALUE on stdin
"""
_CHECK_MORE = """\
Offline; needs no daemon and no server parts. What the file says of itself is not believed: pin the log's key.

exit status: 0 proven, 1 disproved, 2 something in it could not be told.
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs."""
    verb = add_verb(verbs, "bundle", bundle, "put records and their proofs into one file", more=_MAKE_MORE)
    verb.add_argument("file", type=Path, metavar="FILE", help="the bundle to write")
    group = verb.add_argument_group("scope, one of")
    group.add_argument("--range", metavar="FIRST:LAST", help="entries by index, LAST included")
    group.add_argument(
        "--subject", metavar="SCHEME:VALUE", help="a person's whole history; `-` reads it from stdin; needs the vault"
    )
    group.add_argument("--tag", metavar="HEX", help="a person's whole history, by tag")
    group.add_argument("--chain", metavar="NAME", help="a public chain, `participant/ID`, `rules/realm`")
    group.add_argument(
        "--participant", metavar="ID", help="its chain, and all entries at hand that it has part in"
    )
    verb.add_argument("--policy", type=Path, metavar="FILE", help="put in the witness policy to check it with")
    add_ledger_source(verb, directory="--from")
    verb = add_verb(verbs, "check-bundle", check, "check such a file, offline", more=_CHECK_MORE)
    verb.add_argument("file", type=Path, metavar="FILE", help="the bundle; `-` reads it from stdin")
    add_pins(verb)


def bundle(arguments: argparse.Namespace, out: Out) -> int:
    """Make a bundle."""
    from consentd.audit.bundle import make_bundle
    from consentd.core.note import format_vkey

    _check_scope(arguments)
    if str(arguments.file) == "-":
        raise InvalidError("bundle is no text: give a file for it")
    place, origin, verifier = read_ledger_source(arguments)
    scope = _scope(arguments, place)
    policy = _policy(arguments) or b""
    with out.progress("bundling") as progress:
        made = make_bundle(
            place, arguments.file, scope, origin=origin, log_verifier=verifier, vkey=format_vkey(verifier),
            policy=policy, progress=progress,
        )  # fmt: skip
    out.answer(
        f"bundled: {made.entries} entries in `{arguments.file}`, {made.chains} whole chains, {made.closed} closed",
        type="bundle", file=str(arguments.file), size=made.checkpoint.size, entries=made.entries, chains=made.chains,
        closed=made.closed,
    )  # fmt: skip
    return DONE


def check(arguments: argparse.Namespace, out: Out) -> int:
    """Check a bundle."""
    from consentd.audit.evidence import check_bundle

    origin, verifier = read_pins(arguments)
    policy = _policy(arguments)
    found = check_bundle(
        read_bytes(arguments.file, "bundle"), origin=origin, log_verifier=verifier, policy=policy
    )
    for name, count in found.chains:
        out.message(f"whole: chain of {name}, {count} entries")
    if found.closed:
        out.message(f"not checked: statements that are not in it: {found.closed}")
    if found.unproven:
        out.message(f"not checked: whose key it was, for want of the person's chain: {found.unproven}")
    if found.unknown:
        out.message(f"not checked: entries of kinds that this version does not know: {found.unknown}")
    if policy is None:
        out.message("not checked: witnesses; give their policy with --policy")
    status = UNDETERMINED if found.unknown or found.unproven else PROVEN
    verdict = "proven" if status == PROVEN else "could not tell all"
    out.answer(
        out.by_language(
            f"{'증명됨' if status == PROVEN else '판단 불가'}: 항목 {found.entries}개, 진술 {found.opened}개 "
            f"(`{origin}`, 크기 {found.checkpoint.size})",
            f"{verdict}: {found.entries} entries, {found.opened} statements, of `{origin}` at size "
            f"{found.checkpoint.size}",
        ),
        type="check-bundle", verdict=verdict, origin=origin, size=found.checkpoint.size,
        root=found.checkpoint.root.hex(), scope=found.scope, chains=dict(found.chains), entries=found.entries,
        kinds=found.kinds, statements_verified=found.opened, closed=found.closed, unproven=found.unproven,
        unknown=found.unknown, witnesses=list(found.witnesses),
    )  # fmt: skip
    return status


def _policy(arguments: argparse.Namespace) -> bytes | None:
    """Return the bytes of the policy that is given, if it is one: a bad one disproves nothing."""
    if arguments.policy is None or read_policy(arguments) is None:
        return None
    return read_bytes(arguments.policy, "witness policy")


def _check_scope(arguments: argparse.Namespace) -> None:
    given = [arguments.range, arguments.subject, arguments.tag, arguments.chain, arguments.participant]
    if sum(one is not None for one in given) != 1:
        raise InvalidError("give one scope: --range, --subject, --tag, --chain or --participant")


def _scope(arguments: argparse.Namespace, place: "Place") -> "Scope":
    from consentd.audit.bundle import Scope
    from consentd.core.codec import public_tag

    if arguments.participant is not None:
        return Scope(participant=arguments.participant)
    if arguments.chain is not None:
        return Scope(tag=public_tag(arguments.chain))
    if arguments.subject is not None:
        return Scope(tag=_find_tag(arguments, place))
    if arguments.tag is not None:
        try:
            tag = bytes.fromhex(arguments.tag)
        except ValueError:
            tag = b""
        if len(tag) != 32:
            raise InvalidError("tag is not 32 bytes in hex")
        return Scope(tag=tag)
    first, colon, last = arguments.range.partition(":")
    if not (colon and arguments.range.isascii() and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise InvalidError(f"range is not FIRST:LAST: `{arguments.range}`")
    return Scope(first=int(first), last=int(last))


def _find_tag(arguments: argparse.Namespace, place: "Place") -> bytes:
    """Return a person's tag, as the operator's vault has it."""
    scheme, value = read_identifier(arguments.subject)
    if arguments.config is not None:
        # Only then: it loads RocksDB, which an auditor's machine need not have.
        from consentd.audit.files import DataDirectory

        if isinstance(place, DataDirectory) and place.vault_dir is not None:
            return place.find_tag(scheme, value)
    raise InvalidError(
        "person is found by the operator's vault, which is not at hand: give --config of a stopped daemon with its "
        "vault and vault key file, or the person's tag with --tag"
    )
