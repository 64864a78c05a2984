"""Apply DUTY entries to the policy table: the rows that say who must not be erased, and whose erasure is due.

No check reads these rows. An order of erasure does, and the list of all duties.
"""

from consentd.core import codec
from consentd.policy.duty import Duty
from consentd.policy.model import OPEN_END_MS
from consentd.statements import payloads
from consentd.table.authorities import AuthorityRows
from consentd.table.view import duty_key
from consentd.v1 import statement_pb2 as st


class DutyRows(AuthorityRows):
    """Base of the transaction, with the step of DUTY entries."""

    def put_duty(self, event: codec.Event, message: st.DutyStatement) -> None:
        """Apply a DUTY entry. One about nobody who is enrolled does nothing, nor does one that ends no hold.

        An erasure cannot be undone. So a duty that this version does not understand is a hold without an end.
        """
        if self.subject(event.tag) is None:
            return
        form = message.WhichOneof("duty")
        if form is None or not payloads.has_only_known_fields(message):
            duty = Duty(OPEN_END_MS, is_hold=True)
        elif form == "erasure":
            duty = Duty(max(0, message.erasure.due_time_ms), is_hold=False)
        elif message.hold.ended:
            ended = self.duty(event.tag, event.ref)
            if ended is not None and ended.is_hold:
                self._txn.delete(duty_key(event.tag, event.ref))
            return
        else:
            duty = Duty(max(0, message.hold.until_time_ms), is_hold=True)
        self._put(duty_key(event.tag, event.seq), duty.encode())
