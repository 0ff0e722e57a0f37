"""From files in the watched folders to clips in the library."""
