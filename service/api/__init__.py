"""The routes, their request and response schemas, and the pages that describe them."""
