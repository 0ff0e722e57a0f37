"""The resident process and the command line; composes the other packages."""
