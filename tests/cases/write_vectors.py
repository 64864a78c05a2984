"""Write all vectors to a directory.

``PYTHONPATH=.:tests:clients/python python tests/cases/write_vectors.py DIRECTORY`` runs it.

``vectors.jsonl`` has one JSON object a line: kind, name, want, content in base64, and under what it is verified.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cases.ledgers import LedgerCase
from cases.vectors_case import Vector, b64, read_evidence, verdict
from cases.vectors_evidence import evidence
from cases.vectors_forged import forgeries
from cases.vectors_givers import givers
from cases.vectors_histories import histories
from cases.vectors_key_validity import key_validities
from cases.vectors_notes import notes, payloads, receipts, signatures
from cases.vectors_partial import partial
from cases.vectors_policies import policies
from cases.vectors_pruned import pruned
from cases.vectors_registry import registry
from cases.vectors_repeats import repeats
from cases.vectors_reporters import reporters
from cases.vectors_representatives import representatives
from cases.vectors_retention import retained
from cases.vectors_rotations import rotations
from cases.vectors_seals import seals


def with_verdict(vector: Vector) -> Vector:
    """Return a vector with what our own verifier says of it, which is what it wants, where it is asked."""
    reported = verdict(vector)
    refused = reported not in ("ok", "undetermined")
    assert vector.want in (reported, "any") or (not vector.want and refused), f"{vector}: {reported}"
    under = vector.under
    if vector.kind in ("history", "evidence") and not refused:
        under = {**under, "reads": read_evidence(vector)}
    return replace(vector, want=reported, under=under)


def write_vectors(directory: Path) -> list[Vector]:
    """Write ``vectors.jsonl`` into *directory*; return the vectors, each with what it wants."""
    with TemporaryDirectory() as own:
        case = LedgerCase(Path(own))
        try:
            vectors = [*histories(case), *receipts(case)]
        finally:
            case.close()
    vectors += [*forgeries(), *seals(), *pruned(), *retained(), *key_validities(), *givers(), *registry()]
    vectors += [*repeats(), *rotations(), *reporters(), *representatives(), *partial()]
    vectors += [*notes(), *signatures(), *payloads(), *policies(), *evidence()]
    settled = [with_verdict(vector) for vector in vectors]
    with (directory / "vectors.jsonl").open("w") as file:
        for vector in settled:
            line = {
                "kind": vector.kind,
                "name": vector.name,
                "want": vector.want,
                "content": b64(vector.content),
                "under": dict(vector.under),
            }
            file.write(json.dumps(line) + "\n")
    return settled


if __name__ == "__main__":
    print(len(write_vectors(Path(sys.argv[1]))), "vectors")
