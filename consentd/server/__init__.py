"""Put the parts together and serve: the only place that knows every part.

``daemon`` builds, serves, drains · ``http`` answers `/metrics`, `/healthz`, `/checkpoint`, `/tile/…` ·
``keys`` makes and reads key files · ``logs`` writes JSON lines without identifiers · ``demo`` is ``make demo``.
"""
