"""More than one machine: engines, a cluster, plans."""
