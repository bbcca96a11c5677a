"""The command line. Every command is one small file; what is heavy is imported inside it."""
