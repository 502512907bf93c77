"""Tools: one function each, which the command line and notebooks call."""
