"""What all topics share: processes, load, statistics and the report."""
