"""A made-up town on a real daemon, and one citizen's story from grant to proof: ``make demo``."""
