"""`flare23 init`: from folders to a configuration that stands alone and runs."""
