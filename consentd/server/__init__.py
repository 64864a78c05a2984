"""Put the parts together and serve: the only place that knows every part.

``daemon`` builds, serves, drains · ``http`` answers `/metrics`, `/healthz`, `/checkpoint`, `/tile/…` (``conditions``) ·
``publishing`` sets up the witnesses that are asked · ``scrubber`` reads records again · ``room`` tells what is left ·
``keys`` and ``mldsa`` make and read key files · ``logs`` writes JSON lines without identifiers.

``witness`` is a witness of our own (``witness_config``, ``witness_http``); ``follow`` replays the logs it cosigns ·
``demo`` is ``make demo`` (``town``, ``traffic``, ``story``, ``tampering``).
"""
