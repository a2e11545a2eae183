"""One file per public data set: what lies where, under which licence, as arrays."""
