"""Pure decoders of foreign bytes, shared by hints and trace."""
