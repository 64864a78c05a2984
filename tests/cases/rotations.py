"""A daemon whose keys are replaced: the calls of its operator, and a reader that pinned the first log key."""

from cases.daemons import Running
from cases.fakes import HANG_S
from consentd.core import note
from consentd.core.rotation import RotationRole
from consentd.server.keys import read_keys
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, Trust, pin
from consentd_client.admin import rotation_result

ROLES = {RotationRole.LOG: st.ROTATION_ROLE_LOG, RotationRole.STATEMENT: st.ROTATION_ROLE_STATEMENT}

def client(running: Running, who: str = "operator", trust: Trust | None = None) -> Client:
    return Client("", token=running.tokens[who], channel=running.channel, timeout_s=HANG_S, trust=trust)


def prepare(running: Running, role: RotationRole) -> ad.PrepareKeyRotationResponse:
    return client(running).prepare_key_rotation(ROLES[role])


def start(running: Running, role: RotationRole, new_key: bytes, reason: str = "planned") -> ad.Operation:
    return client(running).start_key_rotation(ROLES[role], new_key, reason=reason)


def rotate(running: Running, role: RotationRole) -> ad.KeyRotationResult:
    """Prepare a key, and replace the one in force by it."""
    started = start(running, role, prepare(running, role).new_key)
    return rotation_result(client(running).follow_operation(started.operation_id))


def in_force(running: Running, role: RotationRole) -> bytes:
    services = running.daemon.service_state.services
    assert services is not None
    sequencer = services.sequencer
    return sequencer.checkpoints.log_key if role is RotationRole.LOG else sequencer.statement_key


def in_file(running: Running, role: RotationRole) -> bytes:
    keys = read_keys(running.config)
    return keys.log.verifier.public_key if role is RotationRole.LOG else keys.statement.public_key


def check_followed(running: Running, subject: pb.Subject, old: note.Verifier) -> int:
    """Read a history with the first log key pinned; return how many log keys were followed."""
    running.wait_published()
    found = client(running, "app", pin(old)).history(subject)
    assert found.is_complete
    keys = found.log_keys
    assert not keys or keys[0].vkey == note.format_vkey(old)
    return len(keys)
