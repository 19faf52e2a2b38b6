"""What a run costs, worked out before it runs: from the configuration and the cases' geometry alone."""
