"""The demo, ``make demo``: a made-up town's day on a real daemon, and one citizen's story from grant to proof."""
