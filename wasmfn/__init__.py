"""The command line, the Python client, and the platform on one machine."""
