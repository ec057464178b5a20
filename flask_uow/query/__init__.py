"""Query helpers for views: lookups, pages and pages by key. Only ``Database`` imports them."""
