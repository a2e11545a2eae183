"""Results as pictures for a page: the source's slices, segments to lay over them, captures. Nobody has a name here."""
