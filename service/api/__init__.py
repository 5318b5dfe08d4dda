"""The routes, what they take and give, and the pages that describe them."""
