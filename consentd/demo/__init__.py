"""The demo (``make demo``): a day of a made-up town on a real daemon, and one citizen's story from consent to proof."""
