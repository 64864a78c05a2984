"""The message of a question, as a caller would send it."""

import dataclasses

from consentd.policy import model
from consentd.statements import values
from consentd.v1 import consent_pb2 as pb


def message_of(question: model.Question) -> pb.Question:
    message = pb.Question(
        subject=pb.Subject(scheme="mhid", value="T-1"),
        actor=pb.Actor(**dataclasses.asdict(question.actor)),
        holder=question.holder,
        purpose=question.purpose,
        action=question.action,
        categories=question.categories,
        level=question.level,
        supported_obligations=[values.to_enum(one) for one in question.supported_obligations],
    )
    if question.labels is not None:
        message.labels.SetInParent()
        message.labels.values.extend(question.labels)
    if question.resources is not None:
        message.resources.values.extend(question.resources)
    if question.data_period is not None:
        message.data_period.CopyFrom(values.period_message(question.data_period))
    if question.break_glass is not None:
        message.break_glass.justification = question.break_glass
    return message
