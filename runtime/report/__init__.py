"""Report: a recorded session as one HTML file that can be read, printed and sent without anything else."""
