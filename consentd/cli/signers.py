"""The keys with which verbs sign what they write: a person's own key, or a key of a participant."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from consentd.cli.options import read_hex, read_key_pair, read_origin
from consentd.cli.receipts import write_options
from consentd.core.ed25519 import KEY_SIZE, SIGNATURE_SIZE, KeyPair
from consentd.core.possession import participant_owner, person_owner, prove_possession, representative_owner
from consentd.errors import InvalidError

if TYPE_CHECKING:
    from consentd_client import Client, StatementSigner, Subject
    from consentd_client.receipts import StatementOptions

_TAG_SIZE = 32


def add_tag(verb: argparse.ArgumentParser) -> None:
    """Add the option for the tag that a person's signature names."""
    verb.add_argument(
        "--tag", default="", metavar="HEX",
        help="with --subject-key: the person's tag, as `enrol` printed it (default: read from the history, with "
        "--log-key)",
    )  # fmt: skip


def add_sign_with(verb: argparse.ArgumentParser, text: str) -> None:
    """Add the option for the key that signs, though the call has another credential."""
    verb.add_argument("--sign-with", type=Path, metavar="FILE", help=f"{text}; Ed25519, 64 hex digits")


def add_sign_own(verb: argparse.ArgumentParser) -> None:
    """Add the option with which a participant signs what an operator attests if the participant has no key."""
    add_sign_with(verb, "the participant signs itself, with --origin or --log-key: file with its key in force")


def person_options(arguments: argparse.Namespace, client: "Client", subject: "Subject") -> "StatementOptions":
    """Return the client's options for a statement of a person: with --subject-key, the person signs it."""
    return {
        "signer": person_signer(arguments, client, subject), "method": arguments.method, **write_options(arguments)
    }  # fmt: skip


def person_signer(
    arguments: argparse.Namespace, client: "Client", subject: "Subject"
) -> "StatementSigner | None":
    """Return what signs the statements of the person, with --subject-key; None: the caller attests them.

    Raises:
        InvalidError: the tag is not given, and no log key is pinned to read it with.
    """
    if arguments.subject_key is None:
        if arguments.tag:
            raise InvalidError("tag is what a signature of a person names: give --subject-key too")
        return None
    return signer_of_person(arguments.subject_key, arguments, client, subject)


def signer_of_person(
    key_file: Path, arguments: argparse.Namespace, client: "Client", subject: "Subject"
) -> "StatementSigner":
    """Return what signs the statements of the person with the key of *key_file*. Raises as ``person_signer``."""
    from consentd_client import StatementSigner

    key, origin = read_key_pair(key_file), read_origin(arguments)
    tag = read_hex(arguments.tag, "tag", _TAG_SIZE)
    if not (tag or arguments.log_key):
        raise InvalidError("signature names the person's tag: give --tag, or the --log-key with which it is read")
    return StatementSigner(key=key, origin=origin, tag=tag or client.read_tag(subject))


def participant_signer(arguments: argparse.Namespace, participant_id: str) -> "StatementSigner | None":
    """Return what signs the statements of a participant, with --sign-with; None: the caller attests them."""
    from consentd_client import StatementSigner

    if arguments.sign_with is None:
        return None
    key, origin = read_key_pair(arguments.sign_with), read_origin(arguments)
    return StatementSigner.of_participant(key, origin=origin, participant_id=participant_id)


def read_new_key(
    arguments: argparse.Namespace, text: str, owner: "str | Subject", *, represents: bool = False
) -> tuple[bytes, bytes]:
    """Return a new public key, and the proof that *owner*, a participant's id or a person, has the private key.

    *represents*: the key is of a representative of the person. *text* is the key's file, from which the proof is made,
    or the public key, whose proof is ``arguments.possession``.

    Raises:
        InvalidError: the proof is given beside a file, or is missing.
    """
    is_hex = len(text) == 2 * KEY_SIZE and "/" not in text
    if is_hex is not bool(arguments.possession):
        raise InvalidError("new key is given by its file, or in hex with the --possession that `key prove` prints")
    if is_hex:
        return read_hex(text, "key", KEY_SIZE), read_hex(arguments.possession, "possession", SIGNATURE_SIZE)
    key = read_key_pair(Path(text))
    return key.public_key, possession_of(key, owner, origin=read_origin(arguments), represents=represents)


def possession_of(key: KeyPair, owner: "str | Subject", *, origin: str, represents: bool = False) -> bytes:
    """Return the proof that *owner*, a participant's id, a person or their representative, has the private key."""
    if isinstance(owner, str):
        if represents:
            raise InvalidError("only persons are represented: give a person, SCHEME:VALUE")
        named = participant_owner(owner)
    else:
        named = (representative_owner if represents else person_owner)(owner.scheme, owner.value)
    return prove_possession(key, origin=origin, owner=named)


def add_possession(verb: argparse.ArgumentParser) -> None:
    """Add the option for the proof of a new key that is given in hex."""
    verb.add_argument("--possession", default="", metavar="HEX", help="proof of a key in hex, as `key prove` prints it")


def question_signer(arguments: argparse.Namespace) -> "StatementSigner | None":
    """Return what signs a question, with --sign-with: a key of the caller, or of the person who asks; None: no key."""
    from consentd_client import StatementSigner

    if arguments.sign_with is None:
        if arguments.tag:
            raise InvalidError("tag is what a signed question names: give --sign-with too")
        return None
    tag = read_hex(arguments.tag, "tag", _TAG_SIZE) or bytes(_TAG_SIZE)
    return StatementSigner(key=read_key_pair(arguments.sign_with), origin=read_origin(arguments), tag=tag)
