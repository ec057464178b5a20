"""The query helpers of ``Database``."""
