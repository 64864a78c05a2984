"""The daemon: the only package that knows all parts.

::

    daemon      build the parts, serve, drain
    preflight   checks at the start, before anything is written
    rpc_server  the gRPC server
    http        the HTTP server: metrics, health, checkpoint, tiles
    keys        the daemon's key files
    scrubber    read all records again in the background
"""
