"""Our witness program: it replays every entry of a log before it cosigns a checkpoint."""
