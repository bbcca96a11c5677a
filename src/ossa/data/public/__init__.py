"""Public data sets: found, fetched, checked and unpacked."""
