"""Column types of an app, in modules of their own; see ``test_column_types.py``."""
