"""Publishing, serving and being found."""
