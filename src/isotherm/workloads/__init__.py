"""Access streams made from a definition and a seed."""
