"""``consentd key``: make, prove, add, replace, retire and list signing keys of persons and of participants."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.authorities import add_authority_seq
from consentd.cli.daemon_options import add_pins, add_write
from consentd.cli.options import (
    Verbs,
    add_group,
    add_method,
    add_verb,
    open_client,
    read_hex,
    read_identifier,
    read_key_pair,
    read_origin,
    read_trust,
)
from consentd.cli.out import DONE, UNDETERMINED, Out
from consentd.cli.receipts import add_receipt, store_receipt, write_options
from consentd.cli.signers import (
    add_possession,
    add_sign_with,
    add_tag,
    participant_signer,
    person_signer,
    possession_of,
    read_new_key,
)
from consentd.core.ed25519 import KEY_SIZE, KeyPair
from consentd.core.kinds import EntryKind
from consentd.errors import AlreadyExistsError, InvalidError
from consentd.secret_files import make_secret_file

if TYPE_CHECKING:
    from consentd_client import Client, Entry, StatementSigner, Subject
    from consentd_client.receipts import StatementOptions

_HELP = """\
OWNER is a person, written SCHEME:VALUE, or the id of a participant. Who may change keys of a person (callers.md):
the person with --subject-key; the login of the person with --id-token-file, to add the first key or to retire one; and
a caller that acts for persons. Of a participant: an operator, and the participant itself with --sign-with.

examples:
  consentd key new my.key
  consentd key add mhid:MH-0001 my.key --id-token-file login.token
  consentd key replace mhid:MH-0001 new.key --subject-key my.key
The owner makes a proof of having the private key. Somebody else then adds the key with this proof:
  consentd key prove clinic-b clinic.key --origin consent.example.org
  consentd key add clinic-b HEX --possession PROOF
A person who has lost the key is identified again, and the platform adds a new key and retires the lost one:
  consentd key add mhid:MH-0001 HEX --possession PROOF --method "passport, at a counter"
  consentd key retire mhid:MH-0001 HEX
With --authority-seq the key is that of who represents the person under this authority (`consentd authority`):
  consentd key replace mhid:MH-0001 new.key --subject-key mother.key --authority-seq 2
"""


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the parser."""
    under = add_group(
        verbs, "key", "make, prove, add, replace, retire and list signing keys of persons and participants", more=_HELP,
    )  # fmt: skip
    one = add_verb(under, "new", new)
    one.add_argument("file", type=Path, metavar="FILE", help="the file to write; it must not exist")
    one = add_verb(under, "prove", prove, _add_owner, _add_pins)
    one.add_argument("file", type=Path, metavar="FILE", help="the file of the new key")
    one.add_argument("--represents", action="store_true", help="who has the key represents the person, OWNER")
    signed = (_add_owner, add_method, add_tag, _add_sign_with, add_authority_seq, add_receipt, add_write)
    one = add_verb(under, "add", add, *signed, add_possession, more=_HELP)
    one.add_argument("key", metavar="FILE|HEX", help="the new key: its file, or the Ed25519 public key")
    one = add_verb(under, "retire", retire, *signed, more=_HELP)
    one.add_argument("key", metavar="FILE|HEX", help="the key: its file, or the Ed25519 public key")
    replaced = (_add_owner, add_tag, _add_sign_with, add_authority_seq, add_write)
    one = add_verb(under, "replace", replace, *replaced, more=_HELP)
    one.add_argument("key", type=Path, metavar="FILE", help="file of the new key, which retires the old one")
    add_verb(under, "list", show_all, _add_owner, add_write)


def _add_owner(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("owner", metavar="OWNER", help="SCHEME:VALUE, `-` reads it from stdin; or a participant's id")


def _add_pins(verb: argparse.ArgumentParser) -> None:
    add_pins(verb, witnesses=False)


def _add_sign_with(verb: argparse.ArgumentParser) -> None:
    add_sign_with(verb, "a participant signs itself: file with its key in force")


def new(arguments: argparse.Namespace, out: Out) -> int:
    """Make a signing key: write the secret key to a file, and print the public key. No daemon is called."""
    made = KeyPair(os.urandom(KEY_SIZE))
    make_secret_file(arguments.file, f"{made.seed.hex()}\n".encode())
    key = made.public_key.hex()
    out.message(f"secret key written: `{arguments.file}`; whoever has it can sign as you")
    out.answer(key, type="key", key=key)
    return DONE


def prove(arguments: argparse.Namespace, out: Out) -> int:
    """Prove that the owner has the private key; print the public key and the proof. No daemon is called."""
    made = read_key_pair(arguments.file)
    owner, represents = _owner(arguments), arguments.represents
    key = made.public_key.hex()
    proof = possession_of(made, owner, origin=read_origin(arguments), represents=represents).hex()
    out.answer(f"{key} {proof}", type="possession", key=key, possession=proof)
    return DONE


def add(arguments: argparse.Namespace, out: Out) -> int:
    """Put a key in force."""
    owner, seq = _owner(arguments), arguments.authority_seq
    key, possession = read_new_key(arguments, arguments.key, owner, represents=bool(seq))
    with open_client(arguments) as client:
        options = _options(arguments, client, owner)
        receipt = client.add_key(owner, key, possession, authority_seq=seq, **options)
    out.answer(
        key.hex(), type="key-add", key=key.hex(), index=receipt.index, receipt=store_receipt(arguments, out, receipt)
    )
    return DONE


def retire(arguments: argparse.Namespace, out: Out) -> int:
    """End a key's validity. What it signed before stays valid."""
    owner, key = _owner(arguments), _public_key(arguments.key)
    with open_client(arguments) as client:
        options = _options(arguments, client, owner)
        receipt = client.retire_key(owner, key, authority_seq=arguments.authority_seq, **options)
    out.answer(
        key.hex(), type="key-retire", key=key.hex(), index=receipt.index,
        receipt=store_receipt(arguments, out, receipt),
    )  # fmt: skip
    return DONE


def replace(arguments: argparse.Namespace, out: Out) -> int:
    """Put a new key in force, signed with the old one; then retire the old key, signed with the new one.

    The old key stays in force until the daemon has accepted a signature of the new one. After an error, repeat it.
    """
    owner, new_pair, seq = _owner(arguments), read_key_pair(arguments.key), arguments.authority_seq
    new_key = new_pair.public_key
    path = arguments.sign_with if isinstance(owner, str) else arguments.subject_key
    if path is None:
        raise InvalidError("old key signs: give its file with --subject-key, or with --sign-with for a participant")
    old_key = read_key_pair(path).public_key
    if old_key == new_key:
        raise InvalidError("new key is the old one: make one with `consentd key new`")
    possession = possession_of(new_pair, owner, origin=read_origin(arguments), represents=bool(seq))
    with open_client(arguments) as client:
        signer = _signer(arguments, client, owner)
        try:
            client.add_key(owner, new_key, possession, authority_seq=seq, signer=signer)
        except AlreadyExistsError:
            # An earlier run may have added it. If the key is not this owner's, it cannot retire the old one.
            out.message("new key was stated before")
    changed = argparse.Namespace(**vars(arguments))
    setattr(changed, "sign_with" if isinstance(owner, str) else "subject_key", arguments.key)
    changed.tag = arguments.tag if signer is None or isinstance(owner, str) else signer.tag.hex()
    with open_client(changed) as client:
        signer = _signer(changed, client, owner)
        receipt = client.retire_key(owner, old_key, authority_seq=seq, signer=signer)
    out.answer(
        f"{new_key.hex()} replaces {old_key.hex()}", type="key-replace", key=new_key.hex(), retired=old_key.hex(),
        index=receipt.index,
    )  # fmt: skip
    return DONE


def show_all(arguments: argparse.Namespace, out: Out) -> int:
    """List the keys of a participant that are in force, or all keys of a person, from the person's verified history."""
    owner = _owner(arguments)
    if not isinstance(owner, str):
        read_trust(arguments)  # raises an error here, before the daemon is called, if nothing is pinned
    with open_client(arguments) as client:
        if isinstance(owner, str):
            keys = client.get_participant(owner).keys
            for key in keys:
                _show(out, key, is_in_force=True)
            if not keys:
                out.message("유효한 키가 없음", "no key is in force")
            return DONE
        found = client.history(owner)
    keys_stated = _stated_keys(found.entries)
    for key, is_in_force in keys_stated.items():
        _show(out, key, is_in_force=is_in_force)
    if not found.understands_keys or found.unread:
        out.message("an entry is of a later version: which keys are in force could not be determined")
        return UNDETERMINED
    if not any(keys_stated.values()):
        out.message("유효한 키가 없음", "no key is in force")
    return DONE


def _show(out: Out, key: bytes, *, is_in_force: bool) -> None:
    state = "" if is_in_force else "  (retired)"
    out.answer(f"{key.hex()}{state}", type="key", key=key.hex(), in_force=is_in_force)


def _stated_keys(entries: "Iterable[Entry]") -> dict[bytes, bool]:
    """Return the keys of a person, and of each whether it is in force. *entries*: those of the person's chain."""
    from consentd.v1.statement_pb2 import KeyStatement

    keys: dict[bytes, bool] = {}
    for entry in entries:
        if entry.kind == EntryKind.KEY and isinstance(entry.message, KeyStatement) and not entry.message.authority_seq:
            keys[entry.message.key] = not entry.message.retired
    return keys


def _owner(arguments: argparse.Namespace) -> "str | Subject":
    from consentd_client import Subject

    if arguments.owner != "-" and ":" not in arguments.owner:
        return str(arguments.owner)
    scheme, value = read_identifier(arguments.owner)
    return Subject(scheme=scheme, value=value)


def _public_key(text: str) -> bytes:
    """Return a public key that is given in hex, or by the file of the key."""
    is_hex = len(text) == 2 * KEY_SIZE and "/" not in text
    return read_hex(text, "key", KEY_SIZE) if is_hex else read_key_pair(Path(text)).public_key


def _signer(arguments: argparse.Namespace, client: "Client", owner: "str | Subject") -> "StatementSigner | None":
    if isinstance(owner, str):
        return participant_signer(arguments, owner)
    if arguments.sign_with is not None:
        raise InvalidError("--sign-with is for participants: a person signs with --subject-key")
    return person_signer(arguments, client, owner)


def _options(arguments: argparse.Namespace, client: "Client", owner: "str | Subject") -> "StatementOptions":
    signer = _signer(arguments, client, owner)
    return {"signer": signer, "method": arguments.method, **write_options(arguments)}
