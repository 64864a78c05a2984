"""Read consents that were written down elsewhere, as FHIR R4 or R5 ``Consent``, without guessing.

The law of this floor: what is imported means here what it says there, or it is refused with a reason and
the path of what could not be read. Text in, values out; only ``report`` reads files, and writing is a
``Writer`` that the caller brings. ``fhir.resources`` (extra ``fhir``) is a second opinion on structure,
behind the one door ``resources``; what it lets pass, wrong codes and modifiers among them, is checked here.

Design: policy.md, rules 2, 4 and 5.
"""
