"""Image sets: found, read, told apart from test sets, grouped and downloaded."""
