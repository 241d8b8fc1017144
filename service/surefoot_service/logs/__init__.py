"""What processes of a job print: taken in once each, kept in compressed files, read in pieces."""
