"""The only things that touch memory, behind one small protocol."""
