"""The single writer: its loop, its pool, and the commands it carries out."""
