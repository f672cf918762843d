"""One topic a file: each starts what it needs, measures, and returns a result."""
