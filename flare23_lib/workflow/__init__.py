"""What a run has done and would do: status, checks of its files, deletion of what is unused."""
