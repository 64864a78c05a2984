"""The daemon: the only package that knows all parts."""
