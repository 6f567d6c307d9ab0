"""Programs that we run but did not write."""
