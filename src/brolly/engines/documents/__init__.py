"""Documents of the usual kinds as text with marks, read by kept libraries in a process that can do nothing else."""
