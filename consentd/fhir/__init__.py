"""Read FHIR Consents (R4 or R5) of other systems into values of ``policy``, without guessing.

The rule of this package: an imported consent means here exactly what it means there. If any part of a resource cannot
be read with certainty, the whole resource is refused with a cause and the path of that part.

``consents`` reads text into values, with ``header`` and ``provisions``; only ``importer`` reads files. Writing to a
daemon is done by a ``Writer`` that the caller passes. ``document`` is the only module that uses ``fhir.resources``
(extra ``fhir``), as a second check of the structure. What that library does not check is checked here.

Design: policy.md, rules 2, 4 and 5.
"""
