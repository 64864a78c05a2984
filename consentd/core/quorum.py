"""Parse a trust policy, and verify that a checkpoint satisfies the policy (C2SP tlog-policy).

A trust policy is a file that names the trusted logs, and the witnesses that cosign their checkpoints. The daemon, the
auditor's tool and a citizen's library read the same file. ``consentd.policy``, which decides accesses, is unrelated::

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> <k|any|all> <name>...
    quorum <name|none>

A group and the quorum may use only names that are defined on earlier lines. A name is a member of at most one group, so
that no witness counts twice. Spaces and tabs separate items. A line that begins with ``#`` is a comment.

A checkpoint is accepted if one of the logs signed it, its origin is that log's name, and the witnesses that cosigned it
satisfy the quorum. Old cosignatures do not count: a log that hides new leaves can show an old tree with its
old cosignatures for ever, but its witnesses make no fresh cosignature of that tree. A caller may accept any age, as for
a stored receipt.
"""

import re
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from consentd.core.checkpoint import Checkpoint, parse_checkpoint
from consentd.core.note import (
    COSIGNATURE,
    ED25519,
    MLDSA,
    Note,
    NoteVerifier,
    key_id_of,
    open_note,
    parse_vkey,
    split_key,
)
from consentd.errors import MalformedError, ProofError, SignatureError

MAX_AGE_S = 300
"""The largest age of a cosignature that counts, when a client asks for a fresh checkpoint."""
MAX_AHEAD_S = 60
"""A cosignature may be at most this many seconds before the seal's time, and as many after the reader's clock."""
MAX_LINES = 1024

_NONE = "none"
_KEY_SIZES = {ED25519: 32, COSIGNATURE: 32, MLDSA: 1312}
_LOG_KINDS = (ED25519, MLDSA)
_WITNESS_KINDS = (COSIGNATURE, MLDSA)
_FOREIGN = re.compile(r"[^\t\n\x20-\x7e\x80-\U0010ffff]")
_BLANKS = re.compile(r"[ \t]+")
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")

ParseKey = Callable[[str], NoteVerifier]
"""A function that makes a verifier from an ML-DSA-44 vkey."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A trusted log. ``verifier``: None if this program cannot verify the key's type. ``url``: "" if not given."""

    vkey: str
    url: str = ""
    verifier: NoteVerifier | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class WitnessLine(LogLine):
    """A witness, with the name that the file gives it."""

    name: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Group:
    """A group has witnessed a checkpoint if at least *threshold* of its members have witnessed it."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """The content of a policy file, in the order of its lines, so a group comes after its members.

    *quorum* is the name of a witness or a group; None: no cosignature is required.
    """

    logs: tuple[LogLine, ...]
    witnesses: tuple[WitnessLine, ...]
    groups: tuple[Group, ...]
    quorum: str | None


@dataclass(frozen=True, slots=True)
class Cosigned:
    """An accepted checkpoint, and the counted cosignatures in the policy's order: (witness's name, POSIX seconds)."""

    checkpoint: Checkpoint
    cosignatures: tuple[tuple[str, int], ...]


def parse_policy(content: bytes, *, parse_mldsa: ParseKey | None = None) -> WitnessPolicy:
    """Parse a policy file. Without *parse_mldsa*, signatures by ML-DSA-44 keys are ignored.

    Raises:
        MalformedError: a line breaks the format, uses a name that is not defined before it, or repeats a key or a name;
            there is not exactly one quorum; or the last line has no newline, as in a truncated file.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise MalformedError("policy is not UTF-8") from None
    if _FOREIGN.search(text):
        raise MalformedError("policy has a control character")
    if not text.endswith("\n"):
        raise MalformedError("policy does not end in a newline")
    lines = text[:-1].split("\n")
    if len(lines) > MAX_LINES:
        raise MalformedError(f"policy has more than {MAX_LINES} lines")
    parser = _Parser(parse_mldsa)
    for number, line in enumerate(lines, 1):
        bare = line.strip(" \t")
        if bare and not bare.startswith("#"):
            try:
                parser.add_line(_BLANKS.split(bare))
            except MalformedError as error:
                raise MalformedError(f"policy line {number}: {error}") from None
    return parser.finish()


def format_policy(policy: WitnessPolicy) -> bytes:
    """Format a policy file: logs, witnesses, groups, quorum.

    Raises:
        MalformedError: the file would not parse to the same policy.
    """
    lines = [["log", log.vkey, log.url] for log in policy.logs]
    lines += [["witness", witness.name, witness.vkey, witness.url] for witness in policy.witnesses]
    for group in policy.groups:
        threshold = "all" if group.threshold == len(group.members) else str(group.threshold)
        lines.append(["group", group.name, threshold, *group.members])
    lines.append(["quorum", policy.quorum or _NONE])
    content = "".join(" ".join(item for item in line if item) + "\n" for line in lines).encode()
    if parse_policy(content) != policy:
        raise MalformedError("policy cannot be written")
    return content


def is_satisfied(policy: WitnessPolicy, cosigners: AbstractSet[str]) -> bool:
    """Return whether cosignatures by the witnesses with these names satisfy the quorum."""
    if policy.quorum is None:
        return True
    witnessed = {witness.name for witness in policy.witnesses} & set(cosigners)
    # A group comes after its members, so one pass over the groups is enough.
    for group in policy.groups:
        if sum(member in witnessed for member in group.members) >= group.threshold:
            witnessed.add(group.name)
    return policy.quorum in witnessed


def verify_cosigned(
    note: bytes,
    policy: WitnessPolicy,
    *,
    now_s: int,
    max_age_s: int | None = MAX_AGE_S,
    seal_time_ms: int | None = None,
    max_ahead_s: int = MAX_AHEAD_S,
    logs: Iterable[NoteVerifier] = (),
) -> Cosigned:
    """Verify that a log of this policy signed a checkpoint note and that a fresh quorum of witnesses cosigned it.

    With ``quorum none`` no witness vouches for the time, so freshness is not verified.

    Args:
        now_s: the reader's clock, POSIX seconds.
        max_age_s: the largest age of a cosignature that counts; None: any age, as for a stored receipt.
        seal_time_ms: time of the last seal, if known; a cosignature more than *max_ahead_s* older does not count.
        logs: keys of the log in addition to those in the policy.

    Raises:
        MalformedError: the bytes are no checkpoint note.
        SignatureError: no log of the policy signed the note; a signature by a known key is wrong; or the witnesses
            that cosigned the note recently enough are no quorum.
        ProofError: the checkpoint's origin is not the name of the log that signed the note.
    """
    keys = [line.verifier for line in policy.logs if line.verifier is not None]
    keys += [key for key in logs if key not in keys]
    witnesses = {witness.name: witness.verifier for witness in policy.witnesses if witness.verifier is not None}
    opened = open_note(note, [*keys, *witnesses.values()])
    point = _signed_by(opened, keys)
    times: dict[tuple[str, int], int] = {}  # the newest cosignature of each key
    for line in opened.verified:
        times[line.name, line.key_id] = max(line.time_s, times.get((line.name, line.key_id), 0))
    newest = {name: times[key.name, key.key_id] for name, key in witnesses.items() if (key.name, key.key_id) in times}
    counted = tuple(
        (name, time_s)
        for name, time_s in newest.items()
        if (max_age_s is None or now_s - max_age_s <= time_s <= now_s + max_ahead_s)
        and (seal_time_ms is None or seal_time_ms <= (time_s + max_ahead_s) * 1000)
    )
    if not is_satisfied(policy, {name for name, _ in counted}):
        raise SignatureError(
            f"cosignatures are no quorum: `{len(newest)}` of `{len(policy.witnesses)}` witnesses cosigned, "
            f"`{len(counted)}` recently enough"
        )
    return Cosigned(point, counted)


def _signed_by(opened: Note, keys: Iterable[NoteVerifier]) -> Checkpoint:
    """Return the checkpoint of a note that one of these keys signed. The origin must be the name of that key."""
    signed = {(line.name, line.key_id) for line in opened.verified}
    names = {key.name for key in keys if (key.name, key.key_id) in signed}
    if not names:
        raise SignatureError("checkpoint is signed by no log of the policy")
    point = parse_checkpoint(opened.text)
    if point.origin not in names:
        raise ProofError("checkpoint is of another origin")
    return point


class _Parser:
    """A parser that gets a policy file line by line, and stores the definitions on the lines so far."""

    def __init__(self, parse_mldsa: ParseKey | None) -> None:
        self._parse_mldsa = parse_mldsa
        self._logs: list[LogLine] = []
        self._witnesses: list[WitnessLine] = []
        self._groups: list[Group] = []
        self._quorum: list[str] = []
        self._names: set[str] = set()
        self._members: set[str] = set()
        self._log_keys: set[bytes] = set()
        self._witness_keys: set[bytes] = set()
        self._key_ids: set[tuple[str, int]] = set()

    def add_line(self, items: list[str]) -> None:
        match items:
            case ["log", vkey, *url] if len(url) <= 1:
                verifier = self._key(vkey, _LOG_KINDS, self._log_keys)
                self._logs.append(LogLine(vkey, "".join(url), verifier))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._define(name)
                verifier = self._key(vkey, _WITNESS_KINDS, self._witness_keys)
                self._witnesses.append(WitnessLine(vkey, "".join(url), verifier, name=name))
            case ["group", name, threshold, *members] if members:
                self._group(name, threshold, members)
            case ["quorum", name]:
                if name != _NONE and name not in self._names:
                    raise MalformedError(f"quorum is not defined: `{name}`")
                self._quorum.append(name)
            case _:
                raise MalformedError(f"this is no line of a policy: `{items[0]}`")

    def finish(self) -> WitnessPolicy:
        if len(self._quorum) != 1:
            raise MalformedError("policy does not have exactly one quorum")
        (name,) = self._quorum
        quorum = None if name == _NONE else name
        return WitnessPolicy(tuple(self._logs), tuple(self._witnesses), tuple(self._groups), quorum)

    def _define(self, name: str) -> None:
        if name == _NONE or name in self._names:
            raise MalformedError(f"name is taken: `{name}`")
        self._names.add(name)

    def _group(self, name: str, threshold: str, members: list[str]) -> None:
        for member in members:
            if member not in self._names:
                raise MalformedError(f"member is not defined: `{member}`")
            if member in self._members:
                raise MalformedError(f"member is in a group already: `{member}`")
            self._members.add(member)
        number = {"all": str(len(members)), "any": "1"}.get(threshold, threshold)
        if not _NUMBER.fullmatch(number) or int(number) > len(members):
            raise MalformedError(f"threshold is not `any`, `all` or 1 to {len(members)}: `{threshold}`")
        self._define(name)
        self._groups.append(Group(name, int(number), tuple(members)))

    def _key(self, vkey: str, kinds: tuple[int, ...], known: set[bytes]) -> NoteVerifier | None:
        """Verify a vkey, and add its new key to *known*. Return a verifier, or None for ML-DSA-44 without a parser."""
        name, key_id, kind, key = split_key(vkey)
        if kind not in kinds or len(key) != _KEY_SIZES[kind]:
            raise MalformedError(f"key is not of a type for this: `{vkey[:80]}`")
        if key_id_of(name, kind, key) != key_id:
            raise MalformedError(f"verifier key has an ID that is not its own: `{vkey[:80]}`")
        # INVARIANT: no key counts twice for the quorum, so a file that names a key twice is refused.
        if key in known:
            raise MalformedError(f"key is named already: `{vkey[:80]}`")
        known.add(key)
        # A signature line has only a name and an ID. If two keys shared both, the key of a line would be ambiguous.
        if (name, key_id) in self._key_ids:
            raise MalformedError(f"key has the name and ID of another: `{vkey[:80]}`")
        self._key_ids.add((name, key_id))
        if kind != MLDSA:
            return parse_vkey(vkey)
        return None if self._parse_mldsa is None else self._parse_mldsa(vkey)
