"""Vectors of environment copies behind one facade, whatever steps them."""
