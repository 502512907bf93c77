"""Backbones: from clips to features, with any attention unit inside."""
