"""``consentd prune``: delete what the ledger's retention policy no longer keeps."""

import argparse
from typing import TYPE_CHECKING

from consentd.cli.options import Verbs, add_daemon, add_verb, open_client, read_start_ms
from consentd.cli.out import DONE, Out

if TYPE_CHECKING:
    from consentd.v1.ledger_service_pb2 import PruneResponse

_MORE = """\
The policy is the one that leaf 0 publishes (`ledger.retention_days` when the ledger began). Kept is everything of that
time or later, everything that any of it rests on, all public chains, and each person's last entry before. What is
going to go is stated in the ledger first; nothing is deleted before that is public. Proofs of the rest still hold, and
histories say what is missing. Cut short, it is finished by the next call. It cannot be undone.

examples:
  consentd prune --dry-run
  consentd prune --keep-from 2024-01-01
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verb."""
    verb = add_verb(
        verbs, "prune", prune, "delete what the retention policy no longer keeps (the operator's)", more=_MORE
    )
    verb.add_argument(
        "--keep-from", type=read_start_ms, default=0, metavar="DATE", help="keep all from then on (default: the policy)"
    )
    verb.add_argument("--dry-run", action="store_true", help="only say what would go, and what stops it")
    add_daemon(verb)
    verb.set_defaults(timeout=86_400.0)


def prune(arguments: argparse.Namespace, out: Out) -> int:
    """Prune."""
    from consentd.core.kinds import EntryKind, is_known
    from consentd_client import show

    with open_client(arguments) as client, out.progress("pruning") as progress:

        def tell(answer: "PruneResponse") -> None:
            progress(answer.done_count, answer.total_count)

        done = client.prune(kept_from_ms=arguments.keep_from, dry_run=arguments.dry_run, progress=tell)
    since = show.format_time(done.kept_from_time_ms)
    kind = EntryKind(done.stop_kind).name if is_known(done.stop_kind) else ""
    out.answer(
        out.in_words(
            f"{'삭제 예정' if arguments.dry_run else '삭제됨'}: 진술 {done.statement_count}건, 항목 "
            f"{done.leaf_count}건. {since} 이후의 모든 기록은 남아 있음 (시작 크기 {done.start_size})",
            f"{'would be pruned' if arguments.dry_run else 'pruned'}: {done.statement_count} statements, "
            f"{done.leaf_count} leaves; everything from {since} on is kept (readers start at size {done.start_size})",
        ),
        type="prune", dry_run=arguments.dry_run, statements=done.statement_count, leaves=done.leaf_count,
        kept_from_ms=done.kept_from_time_ms, start=done.start_size, stop_index=done.stop_index, stop_kind=kind,
    )  # fmt: skip
    if kind:
        out.talk(f"leaves go no further than entry {done.stop_index}, a {kind} that something kept still rests on")
    return DONE
