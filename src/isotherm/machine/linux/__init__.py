"""A live Linux host: processes, their mappings, their pages, and moving them."""
