"""What a reader's SR or SEG says of our results, read from its clean copy. No name comes in here."""
