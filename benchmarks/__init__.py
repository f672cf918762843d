"""The benchmark suite: what a function costs, beside what one would use instead."""
