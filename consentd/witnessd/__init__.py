"""Our witness program, which replays every entry of a log before it cosigns a checkpoint of the log."""
