"""The builder: module bytes or an image reference become artifacts that keepers can run.

A build is a record on the stream BUILDS. Everything a restarted builder needs
stands in it, so nothing is remembered: what is not finished is done again.
"""
