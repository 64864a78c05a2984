"""Listen for HTTP: for the daemon and our witness program.

``messages`` has requests and responses as values. ``app`` turns pages, which are functions on these values, into an
ASGI application; it is the only door to Starlette. ``server`` runs the application and sets limits to what a peer may
send and take; it is the only door to uvicorn.
"""
