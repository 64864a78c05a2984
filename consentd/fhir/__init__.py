"""Read FHIR Consents (releases R4 or R5) of other systems into values of ``policy``, without guessing.

The rule of this package: an imported consent means in this system exactly what it means in the other system. If any
part of a resource has no certain meaning, the whole resource is refused with a cause and the path of that part.

``consents`` turns text into values, with the help of ``bundle``, ``header`` and ``provisions``. ``identity`` keeps
resources of different servers apart. ``importer`` reads files, compares what it read with what the daemon has, and
passes consents to a ``Writer`` of the caller, which writes them. Only ``document`` uses the library ``fhir.resources``
(extra ``fhir``). The library checks the structure, in addition to the checks of this package.

Design: policy.md, rules 2, 4 and 5.
"""
