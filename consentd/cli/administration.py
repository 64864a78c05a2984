"""``consentd prune``, ``rotate`` and ``operation``: long work that runs in the daemon, and how to follow it."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from consentd.cli.daemon_options import add_daemon
from consentd.cli.options import Verbs, add_group, add_verb, open_client, read_hex, read_start_ms
from consentd.cli.out import DONE, REFUSED, Out, counted
from consentd.core.kinds import EntryKind, is_known
from consentd.core.note import parse_vkey
from consentd.core.rotation import RotationRole
from consentd.errors import InvalidError, MalformedError
from consentd.policy.dates import format_instant

if TYPE_CHECKING:
    from consentd.v1.admin_service_pb2 import (
        BackupResult,
        KeyRotationResult,
        Operation,
        PruneResult,
        VaultKeyRotationResult,
    )
    from consentd_client import Client

_PRUNE_HELP = """\
The policy is the one that leaf 0 publishes (`ledger.retention_days` when the ledger began). Kept are: everything of
that time or later, everything that a kept entry refers to, all public chains, and each person's last entry before that
time. The ledger first states what will be pruned; nothing is deleted before that statement is public. Proofs of the
rest stay valid, and histories say what is missing. If it is interrupted, the next call completes it. It cannot be
undone.

The pruning runs in the daemon, and continues if this verb is interrupted: `consentd operation` follows or cancels it.

examples:
  consentd prune --dry-run
  consentd prune --keep-from 2024-01-01
  consentd prune --no-wait
"""
_ROTATE_HELP = """\
Without --new-key: make the new key in a file beside the present one, and print its public key. Nothing else changes. If
the file is there already, print its key. With --new-key: replace the key by this one. It cannot be undone.

Before you replace the log key: add the new key to the witness policies, and give it to the operators of the witnesses.
Their witnesses must accept it, or nothing is published any more. Readers follow by themselves, and should pin the new
key. A rotation is no remedy for a key that was stolen: see ops/RUNBOOK.md, `Rotate keys`.

examples:
  consentd rotate log-key
  consentd rotate log-key --new-key consent.example.org/1+0d2e299d+AYqI… --reason "planned, 2027"
  consentd rotate statement-key
"""
_VAULT_KEY_HELP = """\
Makes a new vault key, wrapped by the key-encryption key that the daemon is configured with (`keys.vault_kek`), and
wraps the data key of each person again under it, while the daemon serves. Statements do not change. At the end the old
vault key is deleted, and the key-encryption key before (`keys.vault_kek_previous`) opens nothing any more.

It runs in the daemon, also if this verb is interrupted. If it is cancelled or the daemon stops, run it again: it
finishes the rotation.

examples:
  consentd rotate vault-key
  consentd rotate vault-key --no-wait
"""
_ENDED = {"done": ("완료", "done"), "failed": ("실패", "failed"), "running": ("진행 중", "running")}


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    verb = add_verb(verbs, "prune", prune, add_daemon, more=_PRUNE_HELP)
    verb.add_argument(
        "--keep-from", type=read_start_ms, default=0, metavar="DATE",
        help="keep everything from this date on (default: as the policy says)",
    )  # fmt: skip
    verb.add_argument("--dry-run", action="store_true", help="only say what would be deleted, and what limits it")
    verb.add_argument("--no-wait", action="store_true", help="start it, print its id, and do not wait for its end")
    verb.set_defaults(timeout=86_400.0)
    under = add_group(verbs, "rotate", "replace the log key, the statement key or the vault key", metavar="KEY")
    for name, run in (("log-key", rotate_log_key), ("statement-key", rotate_statement_key)):
        one = add_verb(under, name, run, add_daemon, more=_ROTATE_HELP)
        form = "VKEY" if run is rotate_log_key else "HEX"
        one.add_argument("--new-key", default="", metavar=form, help="replace the key by this one, which was prepared")
        one.add_argument("--reason", default="", metavar="TEXT", help="why; recorded and public")
        one.set_defaults(timeout=86_400.0)
    one = add_verb(under, "vault-key", rotate_vault_key, add_daemon, more=_VAULT_KEY_HELP)
    one.add_argument("--no-wait", action="store_true", help="start it, print its id, and do not wait for its end")
    one.set_defaults(timeout=86_400.0)
    under = add_group(verbs, "operation", "list, show, follow or cancel work that runs in the daemon")
    one = add_verb(under, "list", show_all, add_daemon)
    one.add_argument("--running", action="store_true", help="only those that are not done")
    for name, run in (("show", show_one), ("follow", follow), ("cancel", cancel)):
        one = add_verb(under, name, run, add_daemon)
        one.add_argument("id", metavar="ID", help="the operation's id, 32 hex digits")
        if name == "follow":
            one.set_defaults(timeout=86_400.0)


def prune(arguments: argparse.Namespace, out: Out) -> int:
    """Delete what the retention policy no longer keeps (for the operator)."""
    from consentd_client.admin import operation_result

    with open_client(arguments) as client:
        started = client.start_pruning(kept_from_ms=arguments.keep_from, dry_run=arguments.dry_run)
        done = follow_started(arguments, out, client, started.operation_id, "pruning")
    if done is not None:
        _show_pruned(out, operation_result(done), dry_run=done.dry_run)
    return DONE


def follow_started(
    arguments: argparse.Namespace, out: Out, client: "Client", operation_id: str, what: str
) -> "Operation | None":
    """Wait until an operation that was started is done, and return it; None, with --no-wait: its id is the answer.

    *what*: the text beside the progress bar.
    """
    if arguments.no_wait:
        out.answer(operation_id, type="operation", operation_id=operation_id)
        return None
    out.message(f"operation {operation_id} runs in the daemon: `consentd operation cancel {operation_id}` ends it")
    with out.progress(what) as progress:
        return client.follow_operation(operation_id, progress=_bar(progress))


def rotate_log_key(arguments: argparse.Namespace, out: Out) -> int:
    """Replace the key that signs checkpoints (for the operator)."""
    new_key = b""
    if arguments.new_key:
        try:
            new_key = parse_vkey(arguments.new_key.strip()).public_key
        except MalformedError as error:
            what = f"new key is not a C2SP verifier key: {error}"
            raise InvalidError(f"{what}; give what `consentd rotate log-key` printed") from error
    return _rotate(arguments, out, RotationRole.LOG, new_key)


def rotate_statement_key(arguments: argparse.Namespace, out: Out) -> int:
    """Replace the key that signs the daemon's statements (for the operator)."""
    return _rotate(arguments, out, RotationRole.STATEMENT, read_hex(arguments.new_key, "new key", 32))


def _rotate(arguments: argparse.Namespace, out: Out, role: RotationRole, new_key: bytes) -> int:
    from consentd_client.admin import rotation_result

    number: Any = int(role)
    with open_client(arguments) as client, out.progress("waiting") as progress:
        if not new_key:
            made = client.prepare_key_rotation(number)
            shown = made.verifier_key or made.new_key.hex()
            out.message(f"new key is in `{made.key_file}`, and not in force; replace the present one with --new-key")
            out.answer(shown, type="prepared_key", key=made.new_key.hex(), vkey=made.verifier_key, file=made.key_file)
            return DONE
        started = client.start_key_rotation(number, new_key, reason=arguments.reason)
        out.message(f"operation {started.operation_id} runs in the daemon")
        done = client.follow_operation(started.operation_id, progress=_bar(progress))
    _show_rotated(out, rotation_result(done))
    return DONE


def rotate_vault_key(arguments: argparse.Namespace, out: Out) -> int:
    """Replace the key that wraps persons' data keys (for the operator)."""
    from consentd_client.admin import vault_key_rotation_result

    with open_client(arguments) as client:
        operation_id = client.start_vault_key_rotation().operation_id
        done = follow_started(arguments, out, client, operation_id, "rotating")
    if done is not None:
        _show_vault_key(out, vault_key_rotation_result(done))
    return DONE


def show_all(arguments: argparse.Namespace, out: Out) -> int:
    """List the operations since the daemon's start, the latest first (for the operator)."""
    with open_client(arguments) as client:
        for operation in client.list_operations(done=False if arguments.running else None):
            _show(out, operation)
    return DONE


def show_one(arguments: argparse.Namespace, out: Out) -> int:
    """Show one operation (for the operator)."""
    with open_client(arguments) as client:
        _show(out, client.get_operation(arguments.id))
    return DONE


def follow(arguments: argparse.Namespace, out: Out) -> int:
    """Wait until an operation is done, and show it; exit 1 if it has failed (for the operator)."""
    with open_client(arguments) as client, out.progress("waiting") as progress:
        done = client.follow_operation(arguments.id, progress=_bar(progress))
    _show(out, done)
    return REFUSED if done.HasField("error") else DONE


def cancel(arguments: argparse.Namespace, out: Out) -> int:
    """End an operation at the next point where nothing is half done (for the operator)."""
    with open_client(arguments) as client:
        _show(out, client.cancel_operation(arguments.id))
    return DONE


def _bar(progress: Callable[[int, int], None]) -> "Callable[[Operation], None]":
    """Return a function that shows the progress of an operation."""
    return lambda found: progress(found.progress.done_count, found.progress.total_count)


def _show(out: Out, operation: "Operation") -> None:
    from consentd.v1 import admin_service_pb2 as ad

    kind = ad.OperationKind.Name(operation.kind).removeprefix("OPERATION_KIND_").lower()
    step = ad.OperationStep.Name(operation.progress.step).removeprefix("OPERATION_STEP_").lower()
    state = "running" if not operation.done else "failed" if operation.HasField("error") else "done"
    counts = f"{operation.progress.done_count}/{operation.progress.total_count}"
    since = format_instant(operation.start_time_ms)
    ko, en = _ENDED[state]
    detail = f"  {step} {counts}" if state == "running" else f"  {operation.error.message}" if state == "failed" else ""
    head, rest = f"{kind}{' (dry run)' if operation.dry_run else ''}", f"{since}  {operation.started_by}{detail}"
    out.answer(
        *(f"{operation.operation_id}  {head}  {text}  {rest}" for text in (ko, en)),
        type="operation", operation_id=operation.operation_id, kind=kind, dry_run=operation.dry_run, state=state,
        started_by=operation.started_by, start_time_ms=operation.start_time_ms, end_time_ms=operation.end_time_ms,
        cancel_requested_by=operation.cancel_requested_by, step=step, done_count=operation.progress.done_count,
        total_count=operation.progress.total_count, error=operation.error.message,
    )  # fmt: skip
    if operation.HasField("pruned"):
        _show_pruned(out, operation.pruned, dry_run=operation.dry_run)
    if operation.HasField("key_rotation"):
        _show_rotated(out, operation.key_rotation)
    if operation.HasField("vault_key_rotated"):
        _show_vault_key(out, operation.vault_key_rotated)
    if operation.HasField("backup"):
        show_backup(out, operation.backup)


def _show_rotated(out: Out, done: "KeyRotationResult") -> None:
    new, old = done.verifier_key or done.new_key.hex(), done.old_key.hex()
    out.answer(
        f"교체됨: {old}에서 {new}(으)로, {done.index}번 항목, {done.from_size}부터",
        f"replaced: {old} by {new}, stated in entry {done.index}, from {done.from_size} on",
        type="rotation", role=int(done.role), old_key=old, new_key=done.new_key.hex(), vkey=done.verifier_key,
        index=done.index, from_size=done.from_size, replaced_key_file=done.replaced_key_file,
    )  # fmt: skip
    out.message(f"old private key: `{done.replaced_key_file}`; the daemon does not need it any more")


def _show_vault_key(out: Out, done: "VaultKeyRotationResult") -> None:
    number, count = done.vault_key_number, done.data_key_count
    out.answer(
        f"교체됨: 금고 키 {number}번이 데이터 키 {count}개를 감쌈",
        f"replaced: vault key {number} wraps {count} data keys",
        type="vault_key_rotation", vault_key=number, data_keys=count,
    )  # fmt: skip


def show_backup(out: Out, done: "BackupResult") -> None:
    """Show a backup that was made."""
    until, mib = format_instant(done.expires_time_ms), (done.byte_count >> 20) + 1
    out.answer(
        f"백업됨: {done.name}, 크기 {done.tree_size}, 파일 {done.file_count}개, {mib} MiB, {until}까지 보관",
        f"backed up: {done.name}, size {done.tree_size}, {counted(done.file_count, 'files')}, {mib} MiB; delete "
        f"it by {until}",
        type="backup", name=done.name, time_ms=done.time_ms, size=done.tree_size, root=done.root.hex(),
        files=done.file_count, bytes=done.byte_count, expires_time_ms=done.expires_time_ms,
    )  # fmt: skip


def _show_pruned(out: Out, done: "PruneResult", *, dry_run: bool) -> None:
    since = format_instant(done.kept_from_time_ms)
    kind = EntryKind(done.stop_kind).name if is_known(done.stop_kind) else ""
    out.answer(
        f"{'삭제 예정' if dry_run else '삭제됨'}: 진술 {done.statement_count}건, 항목 "
        f"{done.leaf_count}건. {since} 이후의 모든 기록은 남아 있음 (시작 크기 {done.start_size})",
        f"{'would be pruned' if dry_run else 'pruned'}: {counted(done.statement_count, 'statements')}, "
        f"{counted(done.leaf_count, 'leaves')}; everything from {since} on is kept (new readers start at "
        f"{done.start_size})",
        type="prune", dry_run=dry_run, statements=done.statement_count, leaves=done.leaf_count,
        kept_from_ms=done.kept_from_time_ms, start=done.start_size, stop_index=done.stop_index, stop_kind=kind,
    )  # fmt: skip
    if kind:
        out.message(f"leaves are deleted only before entry {done.stop_index}, a {kind} that a kept entry refers to")
