"""A shop's rows: read, checked, prepared, written."""
